//! A machine with GPUs that are not there: a folder with a program `nvidia-smi` in it, which answers from tables as the real one does by
//! its query interface (`nvidia-smi --help-query-gpu`). It refuses what the real one refuses: a field that it does not know, by
//! `Field "x" is not a valid field to query.` and exit code 2.

use std::{
    fs, io,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

const PROGRAM: &str = r#"#!/bin/sh
dir=$(dirname "$0")
while [ -f "$dir/slow" ]; do
  echo asked >> "$dir/asked"
  sleep 0.05
done
if [ -f "$dir/fault" ]; then
  sed 1d "$dir/fault"
  exit "$(head -n 1 "$dir/fault")"
fi
table= fields= long=
for argument; do
  case $argument in
    --query-gpu=*) table=gpus fields=${argument#*=} ;;
    --query-compute-apps=*) table=apps fields=${argument#*=} ;;
    --format=csv,noheader,nounits) ;;
    -q | -x) long=yes ;;
    *) echo "Invalid combination of input arguments. Please run 'nvidia-smi -h' for help."; exit 2 ;;
  esac
done
if [ -n "$long" ]; then
  cat "$dir/long"
  exit
fi
exec awk -v fields="$fields" -F ', ' '
  NR == 1 {
    for (i = 1; i <= NF; i++) column[$i] = i
    count = split(fields, wanted, ",")
    for (i = 1; i <= count; i++)
      if (!(wanted[i] in column)) { printf "Field \"%s\" is not a valid field to query.\n\n", wanted[i]; exit 2 }
    next
  }
  {
    line = $column[wanted[1]]
    for (i = 2; i <= count; i++) line = line ", " $column[wanted[i]]
    print line
  }' "$dir/$table"
"#;

/// What an engine runs before a container with GPUs begins: as NVIDIA's does, it brings the tool into it. A container that sees all of them has
/// the machine's own, with whatever its tables say at the time; it is mounted into it, as NVIDIA's is. That of a container which was given some
/// lists them, and says that the container has lost its GPUs once there is a file `/gone` in it.
const HOOK: &str = r#"#!/bin/sh
folder=$(dirname "$0")
state=$(cat)
bundle=$(echo "$state" | sed -n 's/.*"bundle": *"\([^"]*\)".*/\1/p')
pid=$(echo "$state" | sed -n 's/.*"pid": *\([0-9]*\).*/\1/p')
root=$(sed -n 's/.*"root": *{"path": *"\([^"]*\)".*/\1/p' "$bundle/config.json")
if [ -f "$folder/broken" ]; then
  cat "$folder/broken" >&2
  exit 1
fi
if grep -q '"NVIDIA_VISIBLE_DEVICES=all"' "$bundle/config.json"; then
  grep -q '"NVIDIA_DRIVER_CAPABILITIES=utility"' "$bundle/config.json" || exit 0
  echo looked >> "$folder/looks"
  mkdir -p "$root/machine"
  nsenter --target "$pid" --mount mount --bind "$folder" "$root/machine" || exit 1
  printf '#!/bin/sh\nexec /machine/nvidia-smi "$@"\n' > "$root/bin/nvidia-smi"
  chmod 755 "$root/bin/nvidia-smi"
  exit
fi
given=$(sed -n 's/.*"NVIDIA_VISIBLE_DEVICES=\(GPU[^"]*\)".*/\1/p' "$bundle/config.json")
cat > "$root/bin/nvidia-smi" <<END
#!/bin/sh
[ "\$*" = -L ] || exit 2
echo asked >> /asked
if [ -e /gone ]; then echo 'Failed to initialize NVML: Unknown Error'; exit 255; fi
number=0
for uuid in $(echo "$given" | tr , ' '); do
  echo "GPU \$number: NVIDIA L40S (UUID: \$uuid)"
  number=\$((number + 1))
done
END
chmod 755 "$root/bin/nvidia-smi"
"#;

/// Its columns; those that drivers before 565 do not know are missing.
const COLUMNS: [&str; 15] = [
    "index",
    "uuid",
    "name",
    "driver_version",
    "compute_cap",
    "memory.total",
    "memory.free",
    "mig.mode.current",
    "ecc.errors.uncorrected.volatile.total",
    "clocks_throttle_reasons.hw_slowdown",
    "clocks_throttle_reasons.hw_thermal_slowdown",
    "clocks_throttle_reasons.hw_power_brake_slowdown",
    "pcie.link.width.current",
    "pcie.link.width.max",
    "pci.bus_id",
];

/// A GPU of the machine.
#[derive(Debug, Clone)]
pub struct Card {
    /// `GPU-...`
    pub uuid: String,
    /// `NVIDIA L40S`
    pub name: String,
    /// Its memory in MiB.
    pub total_mib: u64,
    /// What of it is free.
    pub free_mib: u64,
    /// Errors of its memory.
    pub uncorrected: u64,
}

impl Card {
    /// A sound one, which nobody uses.
    #[must_use]
    pub fn new(uuid: &str, name: &str, total_mib: u64) -> Self {
        Self { uuid: uuid.into(), name: name.into(), total_mib, free_mib: total_mib - 4, uncorrected: 0 }
    }
}

/// A machine with such GPUs, until it is dropped.
#[derive(Debug)]
pub struct Machine {
    folder: tempfile::TempDir,
}

impl Machine {
    /// Makes it.
    ///
    /// # Errors
    /// The folder can't be written.
    pub fn with(cards: &[Card]) -> io::Result<Self> {
        let folder = tempfile::Builder::new().prefix("segue-gpus-").tempdir()?;
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755))?;
        let machine = Self { folder };
        let program = machine.nvidia_smi();
        fs::write(&program, PROGRAM)?;
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755))?;
        machine.set(cards)?;
        machine.set_processes(&[])?;
        Ok(machine)
    }

    /// The program, for `nvidia-smi` of the configuration.
    #[must_use]
    pub fn nvidia_smi(&self) -> PathBuf {
        self.at("nvidia-smi")
    }

    /// A folder of programs for [`Docker::start_beside`](crate::docker::Docker::start_beside): with it an engine gives GPUs to containers, by the hook
    /// that it takes for NVIDIA's by its name.
    ///
    /// # Errors
    /// The folder can't be written.
    pub fn hooks(&self) -> io::Result<&Path> {
        let hook = self.at("nvidia-container-runtime-hook");
        fs::write(&hook, HOOK)?;
        fs::set_permissions(&hook, fs::Permissions::from_mode(0o755))?;
        Ok(self.folder.path())
    }

    /// What it tells of its GPUs from now on.
    ///
    /// # Errors
    /// The folder can't be written.
    pub fn set(&self, cards: &[Card]) -> io::Result<()> {
        let mut table = COLUMNS.join(", ") + "\n";
        let mut long = String::from(
            "<?xml version=\"1.0\" ?>\n<nvidia_smi_log>\n<driver_version>550.54.15</driver_version>\n<cuda_version>12.4</cuda_version>\n",
        );
        for (index, card) in cards.iter().enumerate() {
            let Card { uuid, name, total_mib, free_mib, uncorrected } = card;
            table += &format!(
                "{index}, {uuid}, {name}, 550.54.15, 9.0, {total_mib}, {free_mib}, Disabled, {uncorrected}, Not Active, Not Active, \
                 Not Active, 16, 16, 00000000:{:02X}:00.0\n",
                index + 1
            );
            long += &format!(
                "<gpu id=\"{index}\"><product_brand>NVIDIA</product_brand><uuid>{uuid}</uuid><remapped_rows>\
                 <remapped_row_pending>No</remapped_row_pending><remapped_row_failure>No</remapped_row_failure>\
                 </remapped_rows></gpu>\n"
            );
        }
        self.replace("gpus", &table)?;
        self.replace("long", &(long + "</nvidia_smi_log>\n"))
    }

    /// The processes on them: GPU, process id, MiB, name.
    ///
    /// # Errors
    /// The folder can't be written.
    pub fn set_processes(&self, processes: &[(&str, u32, u64, &str)]) -> io::Result<()> {
        let lines = processes.iter().map(|(uuid, pid, mib, name)| format!("{uuid}, {pid}, {mib}, {name}\n"));
        self.replace(
            "apps",
            &("gpu_uuid, pid, used_gpu_memory, process_name\n".to_owned() + &lines.collect::<String>()),
        )
    }

    /// It says this from now on, whatever is asked, and ends with this exit code; `None`: it answers again.
    ///
    /// # Errors
    /// The folder can't be written.
    pub fn fail(&self, said: Option<(i32, &str)>) -> io::Result<()> {
        match said {
            Some((code, said)) => self.replace("fault", &format!("{code}\n{said}\n")),
            None => fs::remove_file(self.at("fault")),
        }
    }

    /// Whoever asks from now on waits, until this is taken back.
    ///
    /// # Errors
    /// The folder can't be written.
    pub fn be_slow(&self, is_slow: bool) -> io::Result<()> {
        if !is_slow {
            return fs::remove_file(self.at("slow"));
        }
        self.replace("asked", "")?;
        // whoever is nobody there writes it as well
        fs::set_permissions(self.at("asked"), fs::Permissions::from_mode(0o666))?;
        self.replace("slow", "")
    }

    /// Whether somebody waits since it became slow.
    #[must_use]
    pub fn is_waited_for(&self) -> bool {
        fs::metadata(self.at("asked")).is_ok_and(|file| file.len() > 0)
    }

    /// From now on no container with GPUs can be started, as where the driver is gone: NVIDIA's toolkit says this. `None`: they can.
    ///
    /// # Errors
    /// The folder can't be written.
    pub fn break_toolkit(&self, said: Option<&str>) -> io::Result<()> {
        match said {
            Some(said) => self.replace("broken", said),
            None => fs::remove_file(self.at("broken")),
        }
    }

    /// How many containers have been made to look at all GPUs.
    #[must_use]
    pub fn looks(&self) -> usize {
        fs::read_to_string(self.at("looks")).unwrap_or_default().lines().count()
    }

    fn at(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Nobody reads half of it.
    fn replace(&self, name: &str, text: &str) -> io::Result<()> {
        let new: &Path = &self.at(&format!("{name}.new"));
        fs::write(new, text)?;
        fs::rename(new, self.at(name))
    }
}
