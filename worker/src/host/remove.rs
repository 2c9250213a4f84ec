//! A service is taken away: its route, everything that runs of it, its data, and what was kept of it for a way back. What stays is the epoch,
//! by which whoever drove it before is refused.

use std::sync::Arc;

use segue_schemas::{
    host_api::{Fence, HostError, RemoveRoute, Removed},
    id::InstanceId,
};

use super::{Host, state::Recorded};

/// Epochs of services that were taken away that are remembered. A driver that is refused by one has lost its lease long before as many
/// others were taken away after it.
const REMEMBERED: usize = 4_096;

impl Host {
    /// `DELETE /v1/routes/{environment}/{service}`. Once more, or where there is nothing, it changes nothing but the epoch.
    pub(super) async fn remove(self: &Arc<Self>, remove: RemoveRoute) -> Result<Removed, HostError> {
        let fence = remove.fence;
        let (environment, service) = (fence.environment.clone(), fence.service.clone());
        let change = self.store.change(move |recorded| {
            recorded.admit(&fence)?;
            recorded.take_away(&fence)
        });
        let instances = change.await?;
        let pushed = self.carry().await;
        self.clear_data(&environment, &service, instances.clone()).await;
        pushed?;
        tracing::info!(environment, service, instances = instances.len(), "taken away");
        self.tidy(&[]);
        self.sweep_wanted.notify_one();
        Ok(Removed { instances })
    }
}

impl Recorded {
    fn take_away(&mut self, fence: &Fence) -> Result<Vec<InstanceId>, HostError> {
        let (environment, service) = (&fence.environment, &fence.service);
        let of_pair = self.instances.iter().filter(|(_, instance)| {
            instance.environment == *environment && instance.release.service == *service && !instance.stopping
        });
        let running: Vec<InstanceId> = of_pair.map(|(id, _)| id.clone()).collect();
        let route = self.route_mut(environment, service);
        route.rules.clear();
        route.targets.clear();
        route.fallback.clear();
        route.dead_man = None;
        (route.restored, route.gone_back) = (None, None);
        for id in &running {
            self.send_away(id)?;
        }
        self.kept.retain(|kept| kept.environment != *environment || kept.release.service != *service);
        for pairs in [&mut self.furnished, &mut self.missed] {
            pairs.retain(|(e, s)| e != environment || s != service);
        }
        self.forget_volumes(environment, service);
        self.forget_epochs();
        Ok(running)
    }

    /// Of the services that were taken away, those that were heard of first.
    fn forget_epochs(&mut self) {
        let gone = self.routes.iter().filter(|route| route.rules.is_empty()).count();
        let mut excess = gone.saturating_sub(REMEMBERED);
        self.routes.retain(|route| {
            let goes = excess > 0 && route.rules.is_empty();
            excess -= usize::from(goes);
            !goes
        });
    }
}
