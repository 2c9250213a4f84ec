//! A RabbitMQ for the tests that need one and break nothing of it: starts it, prints its two addresses on a line, for
//! `SEGUE_TEST_BROKER`, and stops it when its standard input ends.

use std::io::{Read as _, Write as _};

use anyhow::Result;
use segue_integration_tests::broker::Broker;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let broker = Broker::start("").await?;
    writeln!(std::io::stdout(), "{} {}", broker.address(), broker.management())?;
    std::io::stdin().read_to_end(&mut Vec::new())?;
    Ok(())
}
