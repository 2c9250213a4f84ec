//! `segue previews`: which copies of services open pull requests have, and where.

use segue_schemas::preview::{Preview, PreviewList};

use super::{
    connection::ListArgs,
    ending::{Exit, Failure},
    place, show,
};

/// List the previews: which open pull request has which copy of a service, and where
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    segue previews\n  \
    segue previews --json | jq -r '.items[] | select(.number == 7) | .url'\n\n\
    A preview goes when its pull request is closed. `/segue preview` in a comment makes it again.")]
pub struct Args {
    #[command(flatten)]
    list: ListArgs,
}

pub fn run(Args { list: args }: &Args) -> Result<Exit, Failure> {
    let client = args.server.client()?;
    let list: PreviewList = place::client_runtime()?.block_on(client.get("/previews", &()))?;
    if args.json {
        show::json(&list)?;
        return Ok(Exit::Done);
    }
    let mut table = show::table(&["pull request", "service", "state", "commit", "used", "address", "why"]);
    for preview in &list.items {
        table.add_row(vec![
            format!("{}#{}", preview.repository, preview.number),
            preview.service.clone(),
            preview.state.as_str().to_owned(),
            commit(preview),
            show::ago(preview.touched_at),
            preview.url.clone(),
            preview.reason.clone().unwrap_or_default(),
        ]);
    }
    show::print_table(&table, "there are no previews: a step with `uses: segue/preview` makes one of a pull request");
    Ok(Exit::Done)
}

fn commit(preview: &Preview) -> String {
    preview.commit.as_ref().map(|commit| commit.short().to_owned()).unwrap_or_default()
}
