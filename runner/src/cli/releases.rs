//! `segue releases`: what was released, and which of it can be gone back to.

use segue_schemas::api::{ReleaseList, ReleaseQuery};

use super::{
    connection::ServerArgs,
    ending::{Exit, Failure},
    place,
    run::repository,
    show,
};

/// List releases and rollback points
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    segue releases\n  \
    segue releases --environment production --service api\n  \
    segue releases --json | jq -r '.items[].points[].tag'\n\n\
    `*` marks what serves now. Go back with `segue rollback ENVIRONMENT SERVICE --to TAG`.")]
pub struct Args {
    /// Only those that came to this environment
    #[arg(long)]
    environment: Option<String>,
    /// Only of this service
    #[arg(long)]
    service: Option<String>,
    /// Only of this repository
    #[arg(long, value_name = "OWNER/NAME", value_parser = repository)]
    repository: Option<String>,
    /// How many
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=200))]
    limit: u32,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    server: ServerArgs,
}

pub fn run(args: Args) -> Result<Exit, Failure> {
    let client = args.server.client()?;
    let query = ReleaseQuery {
        repository: args.repository,
        service: args.service,
        environment: args.environment,
        limit: Some(args.limit),
    };
    let list: ReleaseList = place::client_runtime()?.block_on(client.get("/releases", &query))?;
    if args.json {
        show::json(&list)?;
        return Ok(Exit::Done);
    }
    let mut table = show::table(&["release", "service", "repository", "commit", "run", "made", "rollback points"]);
    for view in &list.items {
        let release = &view.release;
        let points: Vec<String> = view
            .points
            .iter()
            .map(|point| format!("{}{}: {}", if point.is_current { "*" } else { "" }, point.environment, point.tag))
            .collect();
        table.add_row(vec![
            release.id.to_string(),
            release.service.clone(),
            release.repository.clone(),
            release.commit.short().to_owned(),
            release.run.to_string(),
            show::ago(release.created_at),
            points.join("  "),
        ]);
    }
    show::print_table(&table, "no releases");
    Ok(Exit::Done)
}
