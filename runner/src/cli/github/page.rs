//! The pages that a browser sees: one that carries the manifest to GitHub, and what stands there when GitHub has sent it back.

use serde_json::Value;

/// Posts the manifest: by itself, or by its button where scripts are not run.
pub fn manifest(target: &str, manifest: &Value) -> String {
    let (target, manifest) = (escape(target), escape(&manifest.to_string()));
    frame(&format!(
        "<p>This page takes the description of the GitHub App to GitHub, which asks whether to make it.</p>\n\
         <form id=\"make\" action=\"{target}\" method=\"post\">\n\
         <input type=\"hidden\" name=\"manifest\" value=\"{manifest}\">\n\
         <button type=\"submit\">Go on to GitHub</button>\n</form>\n\
         <script>document.getElementById(\"make\").submit()</script>"
    ))
}

/// Something to read.
pub fn text(text: &str) -> String {
    frame(&format!("<p>{}</p>", escape(text)))
}

fn frame(body: &str) -> String {
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<head><meta charset=\"utf-8\"><title>Segue: a GitHub App</title>\
         <meta name=\"referrer\" content=\"no-referrer\"></head>\n<body>\n{body}\n</body>\n</html>\n"
    )
}

fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len() + text.len() / 8);
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            c => escaped.push(c),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn nothing_in_a_manifest_ends_its_attribute() {
        let page = manifest("https://x/?a=1&b=\"2", &json!({"name": "\"><script>alert('1')</script>"}));
        assert_eq!(page.matches("<script>").count(), 1, "{page}");
        assert!(page.contains("a=1&amp;b=&quot;2") && page.contains("\\&quot;&gt;&lt;script&gt;"), "{page}");
    }
}
