//! One workflow command, read from a line: `::NAME KEY=VALUE,KEY=VALUE::DATA`.
//! <https://docs.github.com/en/actions/reference/workflows-and-actions/workflow-commands>

use segue_schemas::annotation::{Annotation, AnnotationLevel};

/// Characters of an annotation's message that are kept, and of its title and file.
const MAX_MESSAGE: usize = 4096;
const MAX_WORD: usize = 512;

/// What a line asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// From here on this is masked.
    Mask(String),
    /// This is to be remembered.
    Annotate(Annotation),
    /// A line for the log, in the runner's own form.
    Show(String),
    /// Commands are text until `::TOKEN::`.
    Stop(String),
    /// Nothing: it is heeded nowhere, and is no text either.
    Nothing,
    /// Something that a log line may not ask for; what to do instead.
    Refused(String),
}

/// The command on a line, without its line's end; `None`: the line is text.
#[must_use]
pub fn parse(line: &str) -> Option<Command> {
    let (head, data) = line.trim_start().strip_prefix("::")?.split_once("::")?;
    let (name, properties) = head.split_once(' ').unwrap_or((head, ""));
    let data = unescape(data);
    Some(match name.to_ascii_lowercase().as_str() {
        "add-mask" => Command::Mask(data),
        "error" => annotate(AnnotationLevel::Error, properties, &data),
        "warning" => annotate(AnnotationLevel::Warning, properties, &data),
        "notice" => annotate(AnnotationLevel::Notice, properties, &data),
        "group" => Command::Show(format!("##[group]{data}")),
        "endgroup" => Command::Show("##[endgroup]".into()),
        "debug" => Command::Show(format!("##[debug]{data}")),
        "stop-commands" if !data.trim().is_empty() => Command::Stop(data.trim().to_owned()),
        "echo" => Command::Nothing,
        "set-output" => refused("set-output", "an output", "SEGUE_OUTPUT"),
        "set-env" => refused("set-env", "a variable", "SEGUE_ENV"),
        "add-path" => refused("add-path", "the path", "SEGUE_PATH"),
        "save-state" => Command::Refused("`::save-state::` is ignored: steps have no state of their own here".into()),
        _ => return None,
    })
}

fn refused(name: &str, what: &str, file: &str) -> Command {
    Command::Refused(format!("`::{name}::` is ignored: no line of a log sets {what}; write to ${file} instead"))
}

fn annotate(level: AnnotationLevel, properties: &str, data: &str) -> Command {
    let mut annotation = Annotation::new(level, cut(data, MAX_MESSAGE));
    for property in properties.split(',') {
        let Some((name, value)) = property.split_once('=') else { continue };
        let value = unescape_property(value.trim());
        let number = || value.parse().ok().filter(|number| *number > 0);
        let word = || Some(cut(&value, MAX_WORD)).filter(|word| !word.is_empty());
        match name.trim().to_ascii_lowercase().as_str() {
            "title" => annotation.title = word(),
            "file" => annotation.file = word(),
            "line" => annotation.line = number(),
            "endline" => annotation.end_line = number(),
            "col" => annotation.column = number(),
            "endcolumn" => annotation.end_column = number(),
            _ => {}
        }
    }
    Command::Annotate(annotation)
}

fn cut(text: &str, most: usize) -> String {
    text.chars().take(most).collect()
}

fn unescape(text: &str) -> String {
    text.replace("%0D", "\r").replace("%0A", "\n").replace("%25", "%")
}

fn unescape_property(text: &str) -> String {
    unescape(&text.replace("%3A", ":").replace("%2C", ","))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_commands_of_github_are_known() {
        let show = |text: &str| Some(Command::Show(text.into()));
        let cases = [
            ("no command", None),
            ("::", None),
            ("::unknown::x", None),
            ("a ::group::x", None),
            ("::group::Build it", show("##[group]Build it")),
            ("  ::endgroup::", show("##[endgroup]")),
            ("::debug::a%0Ab", show("##[debug]a\nb")),
            ("::ADD-MASK::s3c%25ret", Some(Command::Mask("s3c%ret".into()))),
            ("::stop-commands::token", Some(Command::Stop("token".into()))),
            ("::stop-commands::", None),
            ("::echo::on", Some(Command::Nothing)),
        ];
        for (line, expected) in cases {
            assert_eq!(parse(line), expected, "{line}");
        }
        for (line, file) in [
            ("::set-output name=a::b", "$SEGUE_OUTPUT"),
            ("::set-env name=a::b", "$SEGUE_ENV"),
            ("::add-path::/x", "$SEGUE_PATH"),
        ] {
            let Some(Command::Refused(why)) = parse(line) else { panic!("{line} is heeded") };
            assert!(why.contains(file), "{why}");
        }
    }

    #[test]
    fn an_annotation_has_its_place() {
        let line = "::error file=src/a%2Cb.rs,line=3,endLine=4,col=5,endColumn=9,title=Lint%3A::not like this%0Aat all";
        let Some(Command::Annotate(found)) = parse(line) else { panic!("it is no annotation") };
        assert_eq!(found.level, AnnotationLevel::Error);
        assert_eq!(found.message, "not like this\nat all");
        assert_eq!((found.file.as_deref(), found.title.as_deref()), (Some("src/a,b.rs"), Some("Lint:")));
        assert_eq!((found.line, found.end_line, found.column, found.end_column), (Some(3), Some(4), Some(5), Some(9)));
        let Some(Command::Annotate(plain)) = parse("::notice line=0,line=x,=,what::hello") else { panic!() };
        assert_eq!((plain.level, plain.line, plain.message.as_str()), (AnnotationLevel::Notice, None, "hello"));
        let long = format!("::warning::{}", "ä".repeat(10_000));
        let Some(Command::Annotate(cut)) = parse(&long) else { panic!() };
        assert_eq!(cut.message.chars().count(), MAX_MESSAGE);
    }
}
