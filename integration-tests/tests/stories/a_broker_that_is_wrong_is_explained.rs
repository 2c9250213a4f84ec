use std::{fs, path::Path, process::Command, time::Duration};

use anyhow::{Result, ensure};
use segue_integration_tests::{
    broker::Broker,
    ledger::Ledger,
    stand::{Stand, free_address},
};
use segue_schemas::queue::{self, Argument};
use serde_json::json;

const LIMIT: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_a_queue_is_another_and_it_goes_on_once_that_is_removed() -> Result<()> {
    let broker = Broker::shared().await?;
    let mut arguments = json!({"x-delivery-limit": 3});
    for (key, value) in &queue::lasting_queues()[1].arguments {
        match value {
            Argument::Text(text) => arguments[*key] = json!(text),
            Argument::Number(_) if *key == "x-delivery-limit" => {}
            Argument::Number(number) => arguments[*key] = json!(number),
        }
    }
    broker.declare(queue::DELIVERIES, &arguments).await?;
    let mut stand = Stand::start_with_broker(&broker, "").await?;
    stand.start_worker("one", &broker.url("worker"))?;
    for said in [stand.until_said("holds bells alone", LIMIT).await, doctor(&stand, "segue.yaml")] {
        let said = said?;
        for part in ["`segue.deliveries`", "x-delivery-limit '3'", "needs '5'", "delete_queue segue.deliveries"] {
            assert!(said.contains(part), "{part} is not in: {said}");
        }
    }
    broker.remove(queue::DELIVERIES).await?;
    stand.until_said("INFO bells go through the broker", LIMIT).await?;
    let said = stand.until_said("INFO bells come from the broker", LIMIT).await?;
    assert!(!said.contains("no bells come from the broker"), "the worker gave its connection up: {said}");
    let mut ledger = Ledger::open(&stand)?;
    ledger.push(&stand, 2).await?;
    ledger.settle(&stand, LIMIT).await?;

    let said = doctor(&stand, "segue.yaml")?;
    assert!(said.contains("good  broker") && said.contains("the permissions of `server` are a server's"), "{said}");
    let url = format!("broker: {{url: \"{}\"}}\n", broker.url("worker"));
    fs::write(stand.folder().join("worker.yaml"), url)?;
    let said = doctor(&stand, "worker.yaml")?;
    assert!(said.contains("good  broker") && said.contains("the permissions of `worker` are a worker's"), "{said}");
    let url = broker.url("server").replace("server:server", "server:wrong");
    fs::write(stand.folder().join("wrong.yaml"), format!("broker: {{url: \"{url}\"}}\n"))?;
    let said = doctor(&stand, "wrong.yaml")?;
    assert!(said.contains("BAD   broker") && said.contains("look at user, password"), "{said}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_its_certificate_is_not_the_one_and_nothing_is_said_to_it_then() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let file = |name: &str| folder.path().join(name).display().to_string();
    for name in ["ours", "another"] {
        openssl(
            folder.path(),
            &format!("req -x509 -newkey rsa:2048 -nodes -keyout {name}.key -out {name}.pem -days 2 -subj /CN={name}"),
        )?;
    }
    fs::write(folder.path().join("names"), "subjectAltName = DNS:localhost\nbasicConstraints = CA:FALSE\n")?;
    openssl(folder.path(), "req -newkey rsa:2048 -nodes -keyout broker.key -out broker.csr -subj /CN=broker")?;
    openssl(
        folder.path(),
        "x509 -req -in broker.csr -CA ours.pem -CAkey ours.key -CAcreateserial -days 2 -extfile names -out broker.pem",
    )?;
    let address = free_address()?;
    let port = address.rsplit(':').next().unwrap_or_default().to_owned();
    let broker = Broker::start(&format!(
        "listeners.ssl.default = {address}\nssl_options.cacertfile = {}\nssl_options.certfile = {}\nssl_options.keyfile = {}\n",
        file("ours.pem"),
        file("broker.pem"),
        file("broker.key")
    ))
    .await?;
    let at = |host: &str, user: &str| broker.url_at(&format!("{host}:{port}"), user).replace("amqp:", "amqps:");
    let settings = |host: &str, user: &str, ca: &str| {
        format!("broker: {{url: \"{}\", ca-file: {}, look-every: 1s}}\n", at(host, user), file(ca))
    };
    let stand = Stand::start_with_settings(&settings("localhost", "server", "another.pem")).await?;
    let said = stand.until_said("certificate that is not accepted", LIMIT).await?;
    assert!(!said.contains("INFO bells go through the broker"), "{said}");
    let said = doctor(&stand, "segue.yaml")?;
    assert!(said.contains("BAD   broker") && said.contains("broker.ca-file"), "{said}");
    fs::write(stand.folder().join("host.yaml"), settings("127.0.0.1", "server", "ours.pem"))?;
    let said = doctor(&stand, "host.yaml")?;
    assert!(
        said.contains("BAD   broker") && said.contains("not accepted"),
        "another host than the certificate's: {said}"
    );
    drop(stand);

    let mut stand = Stand::start_with_settings(&settings("localhost", "server", "ours.pem")).await?;
    stand.start_worker("one", &at("localhost", "worker"))?;
    stand.until_said("INFO bells come from the broker", LIMIT).await?;
    let mut ledger = Ledger::open(&stand)?;
    ledger.push(&stand, 2).await?;
    ledger.settle(&stand, LIMIT).await?;
    let said = doctor(&stand, "segue.yaml")?;
    assert!(said.contains("good  broker") && said.contains("encrypted, and its certificate holds"), "{said}");
    assert!(said.contains("version 3.") || said.contains("version 4."), "{said}");
    Ok(())
}

fn doctor(stand: &Stand, config: &str) -> Result<String> {
    let output = stand.segue(&["doctor", "--config", &stand.folder().join(config).display().to_string()])?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr))
}

fn openssl(folder: &Path, arguments: &str) -> Result<()> {
    let output = Command::new("openssl").args(arguments.split_whitespace()).current_dir(folder).output()?;
    ensure!(output.status.success(), "openssl {arguments}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}
