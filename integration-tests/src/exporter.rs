//! A dcgm-exporter of GPUs that are not there. It tells what the real one does by its default counters, in its form: each line with the labels
//! of its GPU, and of Xids the last one, for ever.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    sync::{Arc, Mutex, PoisonError},
};

use anyhow::Result;
use axum::{Router, extract::State, routing::get};
use tokio::{net::TcpListener, task::JoinHandle};

type Gpus = Arc<Mutex<BTreeMap<String, u32>>>;

/// One that runs, until it is dropped.
#[derive(Debug)]
pub struct Exporter {
    /// Where its metrics are.
    pub url: String,
    gpus: Gpus,
    task: JoinHandle<()>,
}

impl Exporter {
    /// Starts one for GPUs of these UUIDs, to which nothing has happened.
    ///
    /// # Errors
    /// There is no port.
    pub async fn of(uuids: &[&str]) -> Result<Self> {
        let gpus: Gpus = Arc::new(Mutex::new(uuids.iter().map(|uuid| ((*uuid).to_owned(), 0)).collect()));
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let url = format!("http://{}/metrics", listener.local_addr()?);
        let app = Router::new().route("/metrics", get(metrics)).with_state(gpus.clone());
        let task = tokio::spawn(async move {
            let _ = axum::serve(listener, app).await;
        });
        Ok(Self { url, gpus, task })
    }

    /// The driver reports an Xid of a GPU.
    pub fn report(&self, uuid: &str, xid: u32) {
        self.gpus.lock().unwrap_or_else(PoisonError::into_inner).insert(uuid.to_owned(), xid);
    }
}

impl Drop for Exporter {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn metrics(State(gpus): State<Gpus>) -> String {
    let gpus = gpus.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let mut said = String::new();
    for (name, help) in [
        ("DCGM_FI_DEV_FB_FREE", "Framebuffer memory free (in MiB)."),
        ("DCGM_FI_DEV_XID_ERRORS", "Value of the last XID error encountered."),
    ] {
        let _ = writeln!(said, "# HELP {name} {help}\n# TYPE {name} gauge");
        for (index, (uuid, xid)) in gpus.iter().enumerate() {
            let value = if name == "DCGM_FI_DEV_XID_ERRORS" { u64::from(*xid) } else { 46_064 };
            let bus = format!("00000000:{:02X}:00.0", index + 1);
            let _ = writeln!(
                said,
                "{name}{{gpu=\"{index}\",UUID=\"{uuid}\",pci_bus_id=\"{bus}\",device=\"nvidia{index}\",modelName=\"NVIDIA L40S\",\
                 Hostname=\"gpu\",DCGM_FI_DRIVER_VERSION=\"550.54.15\"}} {value}"
            );
        }
    }
    said
}
