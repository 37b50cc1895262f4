// The unit tests: all suites, or the one that is named. Exits 0 only if something ran and nothing failed.
#include <CUnit/Basic.h>

#include <cstdio>

// Weak: null in a program that has a part of them only (Makefile: threads).
[[gnu::weak]] void add_acceptor_tests();
[[gnu::weak]] void add_address_tests();
[[gnu::weak]] void add_admissions_tests();
[[gnu::weak]] void add_backlog_tests();
[[gnu::weak]] void add_backoff_tests();
[[gnu::weak]] void add_breaker_tests();
[[gnu::weak]] void add_channel_tests();
[[gnu::weak]] void add_closing_tests();
[[gnu::weak]] void add_message_pipe_tests();
[[gnu::weak]] void add_client_end_tests();
[[gnu::weak]] void add_conf_tests();
[[gnu::weak]] void add_control_tests();
[[gnu::weak]] void add_control_trust_tests();
[[gnu::weak]] void add_doorbell_tests();
[[gnu::weak]] void add_generation_tests();
[[gnu::weak]] void add_held_file_tests();
[[gnu::weak]] void add_histogram_tests();
[[gnu::weak]] void add_intake_tests();
[[gnu::weak]] void add_layout_tests();
[[gnu::weak]] void add_listener_tests();
[[gnu::weak]] void add_moves_tests();
[[gnu::weak]] void add_log_tests();
[[gnu::weak]] void add_loop_tests();
[[gnu::weak]] void add_networks_tests();
[[gnu::weak]] void add_notify_tests();
[[gnu::weak]] void add_restraint_tests();
[[gnu::weak]] void add_preforkctl_tests();
[[gnu::weak]] void add_program_tests();
[[gnu::weak]] void add_proxy_protocol_tests();
[[gnu::weak]] void add_scaler_tests();
[[gnu::weak]] void add_scoreboard_tests();
[[gnu::weak]] void add_seat_tests();
[[gnu::weak]] void add_session_tests();
[[gnu::weak]] void add_shm_threads_tests();
[[gnu::weak]] void add_stream_tests();
[[gnu::weak]] void add_surroundings_tests();
[[gnu::weak]] void add_tickets_tests();
[[gnu::weak]] void add_trusted_path_tests();
[[gnu::weak]] void add_worker_state_tests();

namespace {

// Those that fork the most come first: what the others leave in the heap makes each fork slower.
constexpr void (*kSuites[])() = {
    add_doorbell_tests,     add_tickets_tests,       add_scoreboard_tests,
    add_seat_tests,         add_admissions_tests,    add_session_tests,
    add_shm_threads_tests,  add_program_tests,       add_channel_tests,
    add_message_pipe_tests, add_loop_tests,          add_backlog_tests,
    add_listener_tests,     add_moves_tests,         add_layout_tests,
    add_histogram_tests,    add_worker_state_tests,  add_scaler_tests,
    add_breaker_tests,      add_address_tests,       add_conf_tests,
    add_control_tests,      add_control_trust_tests, add_preforkctl_tests,
    add_notify_tests,       add_networks_tests,      add_proxy_protocol_tests,
    add_stream_tests,       add_acceptor_tests,      add_trusted_path_tests,
    add_intake_tests,       add_log_tests,           add_generation_tests,
    add_closing_tests,      add_client_end_tests,    add_surroundings_tests,
    add_held_file_tests,    add_backoff_tests,       add_restraint_tests,
};

bool run(const char* only) {
  if (!only) return CU_basic_run_tests() == CUE_SUCCESS;
  CU_pSuite suite = CU_get_suite(only);
  if (!suite) std::fprintf(stderr, "unit-tests: no suite \"%s\"\n", only);
  return suite && CU_basic_run_suite(suite) == CUE_SUCCESS;
}

}  // namespace

int main(int argc, char** argv) {
  // A test that crashes must not take the name of what ran with it.
  std::setvbuf(stdout, nullptr, _IONBF, 0);
  if (argc > 2 || CU_initialize_registry() != CUE_SUCCESS) return 64;
  for (auto add : kSuites)
    if (add) add();
  if (CU_get_error() != CUE_SUCCESS) {  // two suites or tests with one name
    std::fprintf(stderr, "unit-tests: %s\n", CU_get_error_msg());
    return 70;
  }
  CU_basic_set_mode(CU_BRM_VERBOSE);
  bool ran = run(argc == 2 ? argv[1] : nullptr);
  bool good = ran && CU_get_number_of_tests_run() > 0 && CU_get_number_of_failures() == 0 &&
              CU_get_number_of_suites_failed() == 0;
  CU_cleanup_registry();
  return good ? 0 : 1;
}
