//! The embedded proxy's requests per second beside nginx's, in front of the same server, with the same load, one after the other
//! several times in turn, so that both meet the same noise.

use std::{
    fs,
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use segue_integration_tests::{
    sample,
    stand::{Stand, free_address},
};
use segue_schemas::{host_api::HostState, status::RunStatus};

use crate::figures::Figure;

const ROUNDS: usize = 3;
const SECONDS: u32 = 5;

pub async fn measure() -> Result<Vec<Figure>> {
    for (tool, package) in [("wrk", "wrk"), ("nginx", "nginx-light")] {
        ensure!(
            Command::new(tool).arg("-v").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok(),
            "{tool} is not installed; install it with `apt-get install {package}`"
        );
    }
    let stand = Stand::start("").await?;
    stand.repository.commit(
        "first",
        &[
            (".segue/pipelines/release.yml", &sample::pipeline("1s")),
            (".segue/services/api.yml", sample::SERVICE),
            ("service.yml", "version: \"1\"\n"),
        ],
    )?;
    let guid = stand.push("main").await?;
    let view = stand.api()?.run_of(&guid, Duration::from_secs(60)).await?;
    ensure!(view.run.status == RunStatus::Succeeded, "the deployment ended so: {view:#?}");
    let upstream = production_instance(&stand).await?;
    let nginx = Nginx::start(&stand, &upstream)?;

    let host = sample::host_name("production");
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        ours.push(requests_per_second(&stand.proxy, &host)?);
        theirs.push(requests_per_second(&nginx.address, &host)?);
    }
    let (ours, theirs) = (median(ours), median(theirs));
    Ok(vec![
        Figure::new("embedded proxy", ours, "1/s"),
        Figure::new("nginx, one worker, kept upstream connections", theirs, "1/s"),
        Figure::new("embedded proxy : nginx", ours / theirs, "ratio").at_least(0.7),
    ])
}

async fn production_instance(stand: &Stand) -> Result<String> {
    let client = reqwest::Client::builder().unix_socket(stand.data().join("host/host.sock")).build()?;
    let state: HostState = client.get("http://host/v1/state").send().await?.json().await?;
    let instance = state.instances.into_iter().find(|instance| instance.environment == "production");
    Ok(instance.context("nothing runs in production")?.address)
}

fn requests_per_second(address: &str, host: &str) -> Result<f64> {
    let output = Command::new("wrk")
        .args(["-t1", "-c64", &format!("-d{SECONDS}s"), "-H", &format!("Host: {host}"), &format!("http://{address}/")])
        .output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    ensure!(!text.contains("Non-2xx"), "not every request was answered well:\n{text}");
    text.lines()
        .find_map(|line| line.trim().strip_prefix("Requests/sec:"))
        .and_then(|figure| figure.trim().parse().ok())
        .with_context(|| format!("wrk said:\n{text}"))
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

struct Nginx {
    address: String,
    child: Child,
}

impl Nginx {
    fn start(stand: &Stand, upstream: &str) -> Result<Self> {
        let folder = stand.folder().join("nginx");
        fs::create_dir_all(&folder)?;
        let address = free_address()?;
        let configuration = format!(
            "daemon off; worker_processes 1; pid {0}/pid; error_log {0}/error.log;\n\
             events {{ worker_connections 1024; }}\n\
             http {{ access_log off; client_body_temp_path {0}/body; proxy_temp_path {0}/proxy;\n\
             fastcgi_temp_path {0}/f; uwsgi_temp_path {0}/u; scgi_temp_path {0}/s;\n\
             upstream service {{ server {upstream}; keepalive 128; }}\n\
             server {{ listen {address}; location / {{ proxy_pass http://service; proxy_http_version 1.1;\n\
             proxy_set_header Connection \"\"; proxy_set_header Host $host; }} }} }}\n",
            folder.display()
        );
        let file = folder.join("nginx.conf");
        fs::write(&file, configuration)?;
        let child = Command::new("nginx")
            .arg("-c")
            .arg(&file)
            .arg("-p")
            .arg(&folder)
            .stdin(Stdio::null())
            .spawn()
            .context("cannot start nginx")?;
        let nginx = Self { address, child };
        for _ in 0..100 {
            if std::net::TcpStream::connect(&nginx.address).is_ok() {
                return Ok(nginx);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        anyhow::bail!("nginx does not listen; {}", fs::read_to_string(folder.join("error.log")).unwrap_or_default())
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        let _ = segue_integration_tests::processes::signal(self.child.id(), nix::sys::signal::Signal::SIGTERM);
        let _ = self.child.wait();
    }
}
