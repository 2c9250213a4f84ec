//! Turns a share in percent into whole-numbered weights.

use segue_schemas::{host_api::Target, id::InstanceId};

/// The targets that give `percent` of the traffic to the new instances, equally, and the rest to the former ones in the
/// proportions that they have. Instances without a share are left out.
pub(super) fn split(percent: u8, new: &[InstanceId], former: &[Target]) -> Vec<Target> {
    let former = reduce(former.to_vec());
    let percent = if former.is_empty() { 100 } else { u64::from(percent.min(100)) };
    let former_total: u64 = former.iter().map(|t| u64::from(t.weight)).sum::<u64>().max(1);
    let new_count = new.len() as u64;
    let old = former.iter().map(|t| (t.instance.clone(), u64::from(t.weight) * (100 - percent) * new_count.max(1)));
    let new = new.iter().map(|instance| (instance.clone(), percent * former_total));
    let targets = old
        .chain(new)
        .filter(|(_, weight)| *weight > 0)
        .map(|(instance, weight)| Target { instance, weight: u32::try_from(weight).unwrap_or(u32::MAX) })
        .collect();
    reduce(targets)
}

/// The same proportions in the smallest whole numbers; what has no weight is left out.
#[must_use]
pub fn reduce(mut targets: Vec<Target>) -> Vec<Target> {
    targets.retain(|t| t.weight > 0);
    let divisor = targets.iter().fold(0, |divisor, t| greatest_common_divisor(divisor, t.weight)).max(1);
    targets.iter_mut().for_each(|t| t.weight /= divisor);
    targets
}

fn greatest_common_divisor(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { greatest_common_divisor(b, a % b) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(name: &str, weight: u32) -> Target {
        Target { instance: name.parse().unwrap(), weight }
    }

    #[track_caller]
    fn check(percent: u8, new: &[&str], former: &[(&str, u32)], expected: &[(&str, u32)]) {
        let new: Vec<InstanceId> = new.iter().map(|n| n.parse().unwrap()).collect();
        let former: Vec<Target> = former.iter().map(|(n, w)| target(n, *w)).collect();
        let expected: Vec<Target> = expected.iter().map(|(n, w)| target(n, *w)).collect();
        assert_eq!(split(percent, &new, &former), expected);
    }

    #[test]
    fn shares_are_exact_whatever_the_number_of_instances() {
        check(10, &["new"], &[("old", 1)], &[("old", 9), ("new", 1)]);
        check(50, &["new"], &[("old", 100)], &[("old", 1), ("new", 1)]);
        check(
            10,
            &["n1", "n2"],
            &[("o1", 1), ("o2", 1), ("o3", 1)],
            &[("o1", 6), ("o2", 6), ("o3", 6), ("n1", 1), ("n2", 1)],
        );
        check(25, &["new"], &[("o1", 2), ("o2", 1)], &[("o1", 2), ("o2", 1), ("new", 1)]);
        check(100, &["n1", "n2"], &[("old", 7)], &[("n1", 1), ("n2", 1)]);
        check(0, &["new"], &[("o1", 4), ("o2", 2)], &[("o1", 2), ("o2", 1)]);
    }

    #[test]
    fn without_a_former_release_the_new_one_gets_everything() {
        check(10, &["new"], &[], &[("new", 1)]);
    }
}
