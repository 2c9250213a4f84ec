//! Stories: one per file, each told from the built binary on real git, real processes and the real proxy.

mod a_backup_is_taken_before_production;
mod a_backup_is_taken_of_a_container;
mod a_bad_release_comes_back_by_itself;
mod a_bell_too_many_changes_nothing;
mod a_broken_include_of_nginx_changes_nothing;
mod a_broken_pipeline_file_is_explained;
mod a_broker_that_is_cut_off_or_full_stops_no_push;
mod a_broker_that_is_killed_or_wiped_loses_nothing;
mod a_broker_that_is_wrong_is_explained;
mod a_build_that_does_not_end_well_leaves_nothing;
mod a_cache_is_restored_and_stays_in_its_scope;
mod a_canary_behind_haproxy_or_nginx_comes_back;
mod a_composite_action_is_one_step;
mod a_crash_at_any_stage_leaves_the_target_whole;
mod a_demonstration_leaves_nothing_behind;
mod a_failing_canary_without_its_server_falls_back_by_itself;
mod a_flood_of_webhooks_meets_a_stalled_reader;
mod a_forged_signature_writes_nothing;
mod a_full_disk_of_a_worker_costs_it_no_job;
mod a_full_disk_still_takes_deliveries;
mod a_haproxy_that_is_restarted_in_a_canary_loses_nothing;
mod a_host_keeps_its_containers;
mod a_host_on_another_machine_carries_production;
mod a_host_or_worker_that_is_revoked_is_cut_off;
mod a_job_in_a_container_is_cancelled_and_leaves_nothing;
mod a_large_log_under_a_slow_reader_is_whole;
mod a_matrix_comes_from_an_output;
mod a_message_leaves_a_run_out;
mod a_person_promotes_staging_to_production;
mod a_poison_message_is_a_dead_letter;
mod a_push_builds_an_image;
mod a_push_runs_a_job_in_a_container;
mod a_push_runs_to_production;
mod a_push_runs_to_production_over_a_broker;
mod a_release_stands_ready_before_it_serves;
mod a_release_that_dies_while_it_is_watched_comes_back;
mod a_rerun_begins_at_a_step;
mod a_rerun_runs_only_what_failed;
mod a_rerun_says_what_is_another;
mod a_retry_outlives_its_server;
mod a_reusable_pipeline_runs_within_another;
mod a_run_by_hand_is_given_inputs;
mod a_schedule_fires_once;
mod a_secret_across_two_chunks_is_masked;
mod a_service_outlives_its_engine;
mod a_service_runs_as_a_container;
mod a_step_says_more_than_its_log;
mod a_stop_hands_work_on_to_the_next_start;
mod a_webhook_as_large_as_may_be_costs_no_memory;
mod a_worker_apart_tells_what_hosts_did;
mod a_worker_that_stands_still_changes_nothing_later;
mod a_working_tree_runs_here_without_a_server;
mod an_approval_opens_the_gate_to_production;
mod an_emergency_rollback_interrupts_a_canary;
mod an_engine_behind_ssh_carries_a_canary;
mod an_engine_that_is_gone_fails_no_job_for_good;
mod an_image_for_several_platforms_is_an_index;
mod an_image_tells_what_is_in_it;
mod an_image_tells_where_it_is_from;
mod artifacts_and_caches_go_through_a_bucket;
mod cancel_kills_grandchildren;
mod clients_keep_their_release_while_a_canary_grows;
mod commands_end_as_they_say;
mod data_of_production_come_to_staging;
mod github_app_is_made_by_setup;
mod github_buttons_run_again;
mod github_buttons_say_yes_and_bring_back;
mod github_comments_are_commands;
mod github_forks_wait_for_their_very_commit;
mod github_hears_of_what_was_left_out;
mod github_is_asked_for_what_was_missed;
mod github_is_away_and_converges;
mod github_pushes_of_every_kind;
mod github_says_to_wait;
mod github_shows_a_push_to_its_end;
mod github_shows_deployments;
mod github_takes_statuses_from_a_person;
mod github_tells_of_repositories_and_the_app;
mod github_texts_are_literal_everywhere;
mod github_tokens_end_in_the_middle_of_a_run;
mod gpus_are_given_to_one_job_at_a_time;
mod gpus_are_given_to_services;
mod gpus_are_rented_for_a_run;
mod gpus_of_an_engine_on_another_machine_are_given_to_services;
mod gpus_of_two_hosts_change_places_in_turn;
mod gpus_that_break_in_a_canary_are_blamed_on_the_right_one;
mod gpus_that_only_a_container_lost_are_given_again;
mod images_of_jobs_are_pulled;
mod mistakes_are_told_on_the_command_line;
mod previews_are_told_of_in_one_comment;
mod previews_follow_a_pull_request_to_its_end;
mod previews_go_though_nobody_tells_of_the_end;
mod previews_of_forks_stand_apart;
mod previews_run_in_containers;
mod previews_sleep_and_wake;
mod pushes_of_one_group_take_turns;
mod random_faults_break_no_promise;
mod requests_with_a_header_see_the_canary;
mod services_run_at_an_engine_on_another_machine;
mod services_stand_beside_a_job_in_a_container;
mod several_hosts_go_the_same_way;
mod steps_promote_check_and_go_back;
mod the_compose_file_can_be_used;
mod the_host_alone_brings_the_last_good_release_back;
mod the_same_delivery_twice_runs_once;
mod the_state_is_backed_up_and_restored;
mod the_units_of_systemd_can_be_used;
mod two_reviewers_let_production_start;
mod two_servers_share_a_database;
mod what_is_lost_is_done_once;

use std::time::Duration;

use anyhow::{Result, ensure};
use segue_integration_tests::{
    github::{CheckRun, GitHub},
    load::{Load, Tally},
    sample,
    stand::Stand,
};
use segue_schemas::{api::RunView, status::RunStatus};

/// How long a whole run to production may take here.
const RUN_LIMIT: Duration = Duration::from_secs(90);

/// Short leases, so that a story about a lost worker is short.
const QUICK: &str = "timing: {lease: 3s, renew: 500ms, dead-man: 3s}\n";

/// Commits a version of the sample service with its pipeline; the commit.
fn commit_version(stand: &Stand, version: &str, failing: f64, stage: &str) -> Result<String> {
    stand.repository.commit(
        &format!("version {version}"),
        &[
            (".segue/pipelines/release.yml", &sample::pipeline(stage)),
            (".segue/services/api.yml", sample::SERVICE),
            ("service.yml", &sample::service_yml(version, failing)),
        ],
    )
}

/// Commits and pushes a version, and follows its run to the end. Production has traffic meanwhile: without any, a canary is held.
async fn release(stand: &Stand, version: &str, failing: f64, stage: &str) -> Result<RunView> {
    commit_version(stand, version, failing, stage)?;
    let load = Load::to(&stand.proxy, "production").start();
    let guid = stand.push("main").await?;
    let view = stand.api()?.run_of(&guid, RUN_LIMIT).await;
    load.stop().await;
    view
}

/// A release that must succeed.
async fn good_release(stand: &Stand, version: &str) -> Result<RunView> {
    let view = release(stand, version, 0.0, "1s").await?;
    ensure!(view.run.status == RunStatus::Succeeded, "version {version} ended so: {view:#?}");
    Ok(view)
}

/// What the service in production says.
async fn version_in(stand: &Stand, environment: &str) -> Result<String> {
    let answer = reqwest::Client::new()
        .get(format!("http://{}/", stand.proxy))
        .header("host", sample::host_name(environment))
        .timeout(Duration::from_secs(5))
        .send()
        .await?;
    let body: serde_json::Value = answer.json().await?;
    Ok(body["version"].as_str().unwrap_or_default().to_owned())
}

/// Fails, naming the first reasons, where a request was not answered whole.
fn nothing_was_dropped(tally: &Tally) {
    assert_eq!(tally.dropped, 0, "of {} requests {} were dropped: {:#?}", tally.sent, tally.dropped, tally.reasons);
    assert!(tally.sent > 50, "too few requests to tell: {}", tally.sent);
}

/// A Segue that is an App of a GitHub; `more` are further keys of `github`.
async fn with_github(more: &str) -> Result<(Stand, GitHub)> {
    let mut stand = Stand::prepare("")?;
    let github = GitHub::start(&stand.repository.name, stand.repository.bare()).await?;
    stand.add_settings(&github.as_app(more));
    stand.start_server().await?;
    Ok((stand, github))
}

/// The newest check run of a name, once it has come to a conclusion (or `queued`, or `in_progress`).
async fn check_shown(github: &GitHub, commit: &str, name: &str, word: &str, limit: Duration) -> Result<CheckRun> {
    let begun = std::time::Instant::now();
    loop {
        let newest = github.check_run(commit, name);
        if let Some(run) = newest.as_ref().filter(|run| run.history.last().is_some_and(|(_, last)| last == word)) {
            return Ok(run.clone());
        }
        ensure!(
            begun.elapsed() < limit,
            "`{name}` is not shown as {word} after {limit:?}, but: {newest:#?}; asked: {:#?}",
            github.requests()
        );
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
