//! `segue gpus`: the machines with GPUs that runs rent from a cloud, and what they have cost.

use segue_schemas::machine::{Machine, MachineList, MachineState};

use super::{
    client::segment,
    connection::{ListArgs, ServerArgs},
    ending::{Exit, Failure},
    out::say,
    place, show,
};

/// List the machines with GPUs that runs rent: how each stands, who has it, and what it has cost
#[derive(Debug, clap::Args)]
#[command(
    args_conflicts_with_subcommands = true,
    after_help = "Examples:\n  \
    segue gpus\n  \
    segue gpus --json | jq -r '.items[] | select(.state != \"ended\") | .instance'\n  \
    segue gpus terminate segue-5d0c1f7a90b34e62\n\n\
    `wanted`: not launched yet. `launching`: whether it is there is not known yet. `booting`, `ready`: it is there. `ending`: it is to go, \
    and asked after until Lambda shows it gone. `ended`: there is none. Costs are at most: each minute that has begun since the launch.\n\n\
    Exit codes: 0 done, 1 the server did not answer or refused, 2 usage."
)]
pub struct Args {
    #[command(subcommand)]
    what: Option<What>,
    #[command(flatten)]
    list: ListArgs,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    /// Have one terminated, whoever uses it
    Terminate(TerminateArgs),
}

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    segue gpus terminate segue-5d0c1f7a90b34e62\n\n\
    Returns at once; the server asks Lambda until the machine is gone, and `segue gpus` then shows it as `ended`.\n\n\
    Exit codes: 0 done, 1 no such machine, 2 usage.")]
struct TerminateArgs {
    /// Its name, or Lambda's id of it
    machine: String,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    server: ServerArgs,
}

pub fn run(args: &Args) -> Result<Exit, Failure> {
    match &args.what {
        Some(What::Terminate(args)) => terminate(args),
        None => list(&args.list),
    }
}

fn list(args: &ListArgs) -> Result<Exit, Failure> {
    let client = args.server.client()?;
    let list: MachineList = place::client_runtime()?.block_on(client.get("/machines", &()))?;
    if args.json {
        show::json(&list)?;
        return Ok(Exit::Done);
    }
    let header = ["machine", "state", "type", "region", "address", "asked", "USD/hour", "cost", "run", "why"];
    let mut table = show::table(&header);
    for machine in &list.items {
        let text = |text: &Option<String>| text.clone().unwrap_or_default();
        table.add_row(vec![
            machine.name.clone(),
            machine.state.as_str().to_owned(),
            text(&machine.instance_type),
            text(&machine.region),
            text(&machine.ip),
            show::ago(machine.asked_at),
            machine.price_per_hour.map(|price| price.to_string()).unwrap_or_default(),
            machine.cost.to_string(),
            format!("{} of {}", machine.run, machine.repository),
            text(&machine.reason),
        ]);
    }
    show::print_table(&table, "no machine is rented, and none was: a step with `uses: segue/provision-gpu` rents one");
    if let Some(trouble) = &list.trouble {
        anstream::eprintln!("warning: rented machines can't be looked after now: {trouble}");
    }
    Ok(Exit::Done)
}

fn terminate(args: &TerminateArgs) -> Result<Exit, Failure> {
    let client = args.server.client()?;
    let path = format!("/machines/{}", segment(&args.machine));
    let machine: Machine = place::client_runtime()?.block_on(client.delete_for(&path))?;
    if args.json {
        show::json(&machine)?;
    } else if machine.state == MachineState::Ended {
        say!("{} is gone", machine.name);
    } else {
        say!("{} is being terminated; `segue gpus` shows when it is gone", machine.name);
    }
    Ok(Exit::Done)
}
