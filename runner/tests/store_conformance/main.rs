//! What every backend of the store must do, told through its public operations. A backend is a constructor and
//! a word in this file.

#![expect(clippy::unwrap_used, reason = "tests")]

mod caches;
mod calls;
mod comments;
mod concurrency;
mod contents;
mod in_step;
mod intake;
mod jobs;
mod joined;
mod machines;
mod people;
mod previews;
mod random;
mod retention;
mod rollouts;
mod schedules;
mod servers;
mod shows;
mod speed;
mod strategy;
mod world;

/// Runs each story on a backend, each in a world of its own.
macro_rules! conformance {
    ($backend:ident: $($module:ident::{$($story:ident),* $(,)?})*) => {
        mod $backend {
            $(mod $module {$(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $story() {
                    crate::$module::$story(crate::world::$backend().await).await;
                }
            )*})*
        }
    };
}

/// The stories of every backend.
macro_rules! on {
    ($($backend:ident)*) => {$(
        conformance! {
            $backend:
            caches::{
                a_cache_stays_as_it_is_and_other_branches_fall_back_to_the_default_one,
                what_is_too_much_or_too_old_goes_the_least_used_first,
            }
            intake::{
                a_delivery_twice_is_stored_once_and_planned_once,
                an_accepted_delivery_is_there_after_a_crash,
                the_same_work_under_another_guid_makes_nothing,
                a_push_that_nobody_told_of_is_planned_once,
                a_delivery_that_starts_nothing_is_kept_with_its_reason,
                a_delivery_that_was_put_off_comes_back_later,
                a_pipeline_that_cannot_be_planned_is_a_failed_run_that_people_hear_of,
                a_key_dispatches_once,
            }
            in_step::{
                a_host_out_of_step_is_tried_again_soon_and_at_once_after_its_restart,
                a_person_has_a_host_out_of_step_brought_at_once,
                a_way_back_is_not_taken_for_the_end_of_a_repair,
                what_is_on_record_stays_the_same_through_a_repair,
                people_hear_once_of_a_host_that_can_not_be_brought_there,
                an_emergency_is_on_record_at_the_host_that_it_was_at_and_its_others_can_go_back,
                who_was_left_out_of_a_rollout_that_succeeded_is_in_its_reason,
            }
            joined::{
                a_token_lets_one_machine_join_once_for_a_while,
                a_certificate_is_renewed_for_its_key_until_it_ends_or_is_revoked,
                a_rollout_on_a_joined_host_comes_with_what_opens_it,
                a_worker_that_is_revoked_stands_on_the_list_of_its_hosts,
            }
            machines::{
                an_ask_twice_is_one_machine_and_one_that_is_forbidden_is_none,
                a_step_that_is_tried_again_waits_for_the_machine_that_it_had_asked_for,
                a_launch_is_written_down_first_and_what_came_of_it_is_not_lost,
                a_machine_goes_with_its_run_and_after_its_times,
                a_job_that_begins_anew_has_another_machine,
                a_launch_without_an_answer_is_found_or_made_again,
            }
            schedules::{
                a_time_that_comes_makes_one_delivery,
                of_the_times_that_passed_while_it_was_down_the_latest_alone_comes,
                what_the_default_branch_says_is_what_is_scheduled,
            }
            jobs::{
                a_job_goes_from_the_queue_to_its_end,
                two_claims_get_one_job,
                two_last_jobs_start_the_fan_in_once,
                a_stale_epoch_changes_nothing,
                the_same_end_twice_is_one_end,
                an_end_brings_the_next_job_and_each_fails_alone,
                a_failed_need_skips_what_comes_after_and_says_why,
                outputs_reach_the_jobs_that_need_them,
                labels_and_capacity_are_kept,
                a_gpu_is_given_to_one_job_at_a_time,
                a_job_that_waits_for_gpus_says_which,
                environments_and_the_repository_with_less_go_first,
                every_repository_of_many_has_its_turn,
        what_waits_is_told_with_who_could_take_it,
                a_lost_worker_without_an_environment_is_forgiven_three_times,
                a_lost_worker_in_an_environment_fails_the_job_by_name,
                a_new_incarnation_ends_the_leases_of_the_old_one_at_once,
                a_job_that_overstays_ends,
                a_job_handed_back_goes_on_at_its_step_with_its_worker,
                what_a_worker_stopped_by_itself_is_looked_after_as_lost,
                low_disk_stops_jobs_and_not_deliveries,
                logs_are_fenced_and_survive_a_restart,
                the_end_of_a_log_comes_with_its_jobs,
                artifacts_are_named_once_per_attempt,
                secrets_come_with_the_claim_to_trusted_code_alone,
                a_claim_that_waits_is_woken,
            }
            people::{
                an_approval_is_bound_to_the_commit_and_counts_people,
                a_ref_that_an_environment_does_not_let_in_fails,
                a_reviewer_is_named_and_reviews_nothing_of_their_own,
                a_gate_opens_in_time_and_is_closed_at_the_claim_where_its_time_is_over,
                a_job_that_has_begun_goes_on_whatever_begins_meanwhile,
                what_never_opens_ends_and_who_passes_by_is_kept,
                foreign_code_waits_for_a_yes_and_never_deploys,
                foreign_code_runs_on_no_host_unless_the_operator_lets_it,
                cancelling_takes_back_what_waits_and_tells_what_runs,
                a_rerun_of_what_failed_carries_the_rest_over,
                recovery_is_told_after_a_failure,
                tokens_open_what_they_say,
            }
            rollouts::{
                a_deploy_waits_without_a_slot_and_goes_on,
                a_job_whose_rollout_fails_ends_with_its_reason,
                a_failure_that_an_expression_allows_is_none_of_the_job,
                one_rollout_at_a_time_per_pair,
                an_older_worker_is_given_no_rollout_that_it_can_not_drive,
                a_lost_driver_hands_over_under_a_higher_epoch,
                the_journal_takes_each_entry_once_and_no_gap,
                production_refuses_what_has_not_passed_staging,
                a_rollback_aborts_what_runs_first,
                rollback_points_have_tags_of_their_own,
                a_word_is_given_once_to_each_owner,
                a_word_has_a_number_and_is_told_until_the_journal_has_that,
                a_word_that_is_asked_for_again_or_said_twice_is_one,
                an_emergency_ends_what_drove_the_pair,
                a_claim_that_knows_nothing_of_an_emergency_is_below_it,
                claims_go_on_above_what_a_host_has_seen,
                what_a_host_that_stayed_away_carries_is_recorded_when_it_is_back,
                a_waiting_job_that_ends_is_told_to_whoever_keeps_its_workspace,
                a_rollout_that_was_put_off_is_offered_again_in_time,
                a_rollout_that_never_begins_ends_after_a_week,
                a_lost_worker_that_had_asked_for_a_rollout_waits_for_it,
                cancelling_aborts_the_rollout_that_is_waited_for,
            }
            contents::{
                what_nobody_names_goes_after_an_hour_and_can_come_again,
            }
            retention::{
                old_logs_artifacts_and_runs_go_and_what_is_needed_stays,
                too_much_goes_the_oldest_first_and_points_are_counted,
            }
            strategy::{
                a_matrix_of_an_output_becomes_its_combinations_with_everything_evaluated,
                a_matrix_that_cannot_be_evaluated_fails_its_job_in_words,
                the_first_failure_of_a_matrix_ends_the_others_and_says_so,
                no_more_of_a_matrix_are_at_work_than_may_be_and_others_go_past_it,
                a_failure_that_is_allowed_is_none_of_the_run,
            }
            calls::{
                the_jobs_of_a_call_begin_behind_it_and_it_ends_with_them,
                a_rerun_of_what_failed_keeps_what_a_call_has_done,
                a_cancelled_run_ends_what_it_called,
            }
            concurrency::{
                one_run_of_a_group_is_at_work_and_the_others_wait_in_order,
                of_the_deploys_that_wait_the_newest_supersedes_the_others,
                the_oldest_gets_its_turn_however_many_were_queued_before_it,
                what_comes_may_cancel_what_is_in_progress,
                a_group_that_cannot_be_had_is_said,
                a_job_that_fails_begins_again_after_a_pause_and_no_more_often_than_it_says,
                a_job_that_waits_to_begin_again_ends_at_once_with_its_run_or_its_group,
                a_job_that_asks_for_a_container_never_runs_outside_of_one,
            }
            shows::{
                every_change_of_a_run_is_to_be_told_and_none_twice,
                what_could_not_be_told_comes_back_and_changes_bring_it_forward,
                what_github_shows_is_kept_by_attempt_and_goes_with_the_run,
                without_github_nothing_is_noted,
                a_pipeline_that_was_left_out_is_told_once_unless_it_runs,
                every_change_of_a_rollout_is_to_be_told_and_that_of_what_served_before,
                a_button_of_a_check_runs_what_it_stands_for_once,
                a_button_says_yes_or_brings_back_once_and_only_while_it_applies,
            }
            comments::{
                a_command_of_a_comment_is_done_once_and_answered_until_it_is,
                a_comment_cancels_and_approves_what_is_its_pull_requests_alone,
                a_comment_brings_a_service_of_its_repository_back,
            }
            previews::{
                a_preview_lives_as_long_as_its_pull_request_is_open,
                what_asks_too_late_or_for_no_pull_request_is_refused,
                a_run_of_an_older_commit_is_cancelled_and_no_preview_goes_back,
                the_one_idle_for_longest_makes_room_and_time_ends_others,
                every_change_of_a_preview_is_to_be_told_below_its_pull_request,
                what_a_host_carries_is_compared_with_what_there_is_to_be,
            }
            random::{
                invariants_hold_under_random_operations,
            }
            speed::{
                a_thousand_deliveries_over_a_hundred_connections,
                a_thousand_jobs_two_at_a_time,
                a_claim_costs_the_same_however_much_is_queued,
            }
        }
    )*};
}

on! { sqlite postgres }

// what several servers on one database do
conformance! {
    postgres_shared:
    machines::{ one_server_speaks_to_the_cloud_and_another_takes_over }
    servers::{
        two_last_jobs_that_end_on_two_servers_start_the_fan_in_once,
        two_claims_on_two_servers_get_one_slot,
        a_time_that_comes_to_two_servers_makes_one_delivery,
        a_delivery_that_comes_to_two_servers_is_one,
        what_happens_on_one_server_is_heard_on_the_other,
        a_lost_connection_is_made_again_and_nothing_is_missed,
        a_log_is_one_whichever_server_takes_and_reads_it,
        a_message_to_people_is_one_server_s,
        a_server_that_stands_still_in_a_transaction_holds_nobody_up_for_long,
        what_one_server_leaves_unplanned_another_plans,
        a_database_that_only_reads_is_said_and_used_again,
        what_one_server_kept_is_copied_whole_into_an_empty_database,
        a_server_with_another_key_is_told_so,
        a_worker_that_one_server_hears_lives_for_all,
    }
    shows::{
        a_run_is_told_of_by_one_of_two_servers,
    }
}

// what concerns contents, with contents in a bucket
conformance! {
    bucket:
    caches::{
        a_cache_stays_as_it_is_and_other_branches_fall_back_to_the_default_one,
        what_is_too_much_or_too_old_goes_the_least_used_first,
    }
    contents::{
        what_nobody_names_goes_after_an_hour_and_can_come_again,
        what_can_not_be_removed_now_is_removed_by_the_next_sweep,
        an_outage_stops_no_sweep_of_what_lies_here,
        what_an_upload_has_left_unrecorded_goes_after_a_day,
        a_cache_whose_content_somebody_has_removed_is_none,
    }
    jobs::{
        artifacts_are_named_once_per_attempt,
    }
    rollouts::{
        production_refuses_what_has_not_passed_staging,
    }
    retention::{
        old_logs_artifacts_and_runs_go_and_what_is_needed_stays,
        too_much_goes_the_oldest_first_and_points_are_counted,
    }
}
