//! `nvidia-smi -q -x`: what is told there alone. The newest CUDA that the driver supports and a GPU's brand are no fields of
//! `--query-gpu`; older tools have the remapping of rows and the wanted reset only here.

use quick_xml::{Reader, events::Event};

use super::{
    facts::{Facts, Gpu, Recovery},
    smi::said_yes,
};

/// How deep elements may lie in each other, and the most that is read: real answers have 7 levels.
const DEEPEST: usize = 32;
const MOST_BYTES: usize = 4 << 20;

/// Adds what `nvidia-smi -q -x` said to what is known; what is known already stays. What can't be read adds nothing more.
pub fn add_details(facts: &mut Facts, said: &str) {
    let mut reader = Reader::from_str(said.get(..MOST_BYTES).unwrap_or(said));
    let mut path: Vec<String> = Vec::new();
    let mut gpu: Option<Gpu> = None;
    loop {
        match reader.read_event() {
            Ok(Event::Start(start)) if path.len() < DEEPEST => {
                path.push(String::from_utf8_lossy(start.name().as_ref()).into_owned());
                if is(&path, &["nvidia_smi_log", "gpu"]) {
                    gpu = Some(Gpu::default());
                }
            }
            Ok(Event::Text(text)) => {
                let Ok(text) = std::str::from_utf8(&text) else { continue };
                read(facts, gpu.as_mut(), &path, text.trim());
            }
            Ok(Event::End(_)) => {
                if is(&path, &["nvidia_smi_log", "gpu"])
                    && let Some(gpu) = gpu.take()
                {
                    add(facts, gpu);
                }
                path.pop();
            }
            Ok(Event::Eof | Event::Start(_)) | Err(_) => return,
            Ok(_) => {}
        }
    }
}

fn is(path: &[String], wanted: &[&str]) -> bool {
    path.iter().map(String::as_str).eq(wanted.iter().copied())
}

fn read(facts: &mut Facts, gpu: Option<&mut Gpu>, path: &[String], text: &str) {
    let at: Vec<&str> = path.iter().skip(1).map(String::as_str).collect();
    match (at.as_slice(), gpu) {
        (["cuda_version"], _) => facts.cuda = text.parse().ok(),
        (["driver_version"], _) if facts.driver.is_none() => facts.driver = text.parse().ok(),
        (["gpu", rest @ ..], Some(gpu)) => match rest {
            ["uuid"] => text.clone_into(&mut gpu.uuid),
            // `Quadro RTX` is `quadrortx` in an image's requirement
            ["product_brand"] if text != "N/A" => gpu.brand = Some(text.replace(' ', "").to_ascii_lowercase()),
            ["remapped_rows", "remapped_row_pending"] => gpu.remap_pending = said_yes(text),
            ["remapped_rows", "remapped_row_failure"] => gpu.remap_failed = said_yes(text),
            ["gpu_recovery_action"] => gpu.recovery = Recovery::read(text),
            ["gpu_reset_status", "reset_required"] if said_yes(text) == Some(true) => {
                gpu.recovery.get_or_insert(Recovery::Reset);
            }
            ["gpu_reset_status", "drain_and_reset_recommended"] if said_yes(text) == Some(true) => {
                gpu.recovery.get_or_insert(Recovery::DrainAndReset);
            }
            _ => {}
        },
        _ => {}
    }
}

fn add(facts: &mut Facts, told: Gpu) {
    if let Some(gpu) = facts.gpus.iter_mut().find(|gpu| gpu.uuid == told.uuid) {
        gpu.brand = gpu.brand.take().or(told.brand);
        gpu.remap_pending = gpu.remap_pending.or(told.remap_pending);
        gpu.remap_failed = gpu.remap_failed.or(told.remap_failed);
        gpu.recovery = gpu.recovery.or(told.recovery);
    }
}
