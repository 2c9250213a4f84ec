//! The embedded proxy's requests per second beside nginx's, in front of the same server, with the same load, one after the other
//! several times in turn, so that both meet the same noise. Each has one thread, keeps connections on both sides for as long as
//! it is asked to, tells the service who asked (`X-Forwarded-*`), and writes every request down: the one as an observation, the
//! other in its access log. The figure is the geometric mean of the ratios at few and at many connections.

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
const SECONDS: u32 = 3;
/// Client connections at once.
const CONNECTIONS: [u32; 3] = [1, 8, 64];

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
    let (mut figures, mut ratios) = (Vec::new(), Vec::new());
    for connections in CONNECTIONS {
        let mut rounds = Vec::new();
        for _ in 0..ROUNDS {
            let ours = requests_per_second(&stand.proxy, &host, connections)?;
            rounds.push((ours, requests_per_second(&nginx.address, &host, connections)?));
        }
        let of = |figure: fn(&(f64, f64)) -> f64| median(rounds.iter().map(figure).collect());
        let ratio = of(|(ours, theirs)| ours / theirs);
        ratios.push(ratio);
        let at = format!("{connections} connection{}", if connections == 1 { "" } else { "s" });
        figures.extend([
            Figure::new(format!("{at}: embedded proxy, one thread"), of(|(ours, _)| *ours), "1/s"),
            Figure::new(format!("{at}: nginx, one worker, access log on"), of(|(_, theirs)| *theirs), "1/s"),
            Figure::new(format!("{at}: embedded proxy : nginx"), ratio, "ratio"),
        ]);
    }
    let mean = ratios.iter().product::<f64>().powf(1.0 / ratios.len() as f64);
    figures.push(Figure::new("embedded proxy : nginx over all of them".to_owned(), mean, "ratio").at_least(0.7));
    Ok(figures)
}

async fn production_instance(stand: &Stand) -> Result<String> {
    let client = reqwest::Client::builder().unix_socket(stand.data().join("host/host.sock")).build()?;
    let state: HostState = client.get("http://host/v1/state").send().await?.json().await?;
    let instance = state.instances.into_iter().find(|instance| instance.environment == "production");
    Ok(instance.context("nothing runs in production")?.address)
}

fn requests_per_second(address: &str, host: &str, connections: u32) -> Result<f64> {
    let (connections, seconds) = (format!("-c{connections}"), format!("-d{SECONDS}s"));
    let output = Command::new("wrk")
        .args(["-t1", &connections, &seconds, "-H", &format!("Host: {host}"), &format!("http://{address}/")])
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
             http {{ access_log {0}/access.log; keepalive_requests 1000000000; client_body_temp_path {0}/body; proxy_temp_path {0}/proxy;\n\
             fastcgi_temp_path {0}/f; uwsgi_temp_path {0}/u; scgi_temp_path {0}/s;\n\
             upstream service {{ server {upstream}; keepalive 128; keepalive_requests 1000000000; }}\n\
             server {{ listen {address}; location / {{ proxy_pass http://service; proxy_http_version 1.1;\n\
             proxy_set_header Connection \"\"; proxy_set_header Host $host; proxy_set_header X-Forwarded-Host $host;\n\
             proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for; proxy_set_header X-Forwarded-Proto $scheme; }} }} }}\n",
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
