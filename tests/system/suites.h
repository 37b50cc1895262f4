// The suites, each in the file of its name. A new one is declared here and listed below.
#pragma once

#include <vector>

#include "tests/system/check.h"
#include "tests/system/conditions.h"

namespace preforkd::system_test {

Suite serve_suite();
Suite sizing_suite();
Suite limits_suite();
Suite reload_suite();
Suite upgrade_suite();
Suite versions_suite();
Suite deaths_suite();
Suite figures_suite();
Suite crash_suite();
Suite instructions_suite();
Suite recycle_suite();
Suite options_suite();
Suite stop_suite();
Suite program_suite();
Suite handlers_suite();
Suite serving_suite();
Suite access_suite();
Suite saturation_suite();
Suite libpreforkd_suite();
Suite accept_suite();
Suite template_suite();
Suite examples_suite();
Suite idle_suite();
Suite config_suite();
Suite resources_suite();
Suite clients_suite();
Suite control_abuse_suite();
Suite control_trust_suite();
Suite git_suite();
Suite rsync_suite();
Suite ssh_suite();
Suite tcpserver_suite();
Suite echo_load_suite();
Suite systemd_suite();
Suite notify_suite();
Suite hostile_suite();
Suite paths_suite();
Suite starts_suite();
Suite odd_start_suite();
Suite ends_suite();
Suite moves_suite();
Suite files_suite();
Suite orphans_suite();
Suite addresses_suite();
Suite loading_suite();
Suite trust_rights_suite();
Suite trust_reach_suite();
Suite trust_left_suite();
Suite trust_waits_suite();
Suite trust_unit_suite();
Suite trust_scope_suite();
Suite log_suite();
Suite waits_suite();
Suite valgrind_suite();
Suite leaks_suite();
Suite soak_suite();  // tests/soak; not one of all, takes minutes

inline std::vector<Suite> all_suites() {
  return {serve_suite(),         sizing_suite(),       limits_suite(),      reload_suite(),
          upgrade_suite(),       deaths_suite(),       crash_suite(),       recycle_suite(),
          options_suite(),       stop_suite(),         program_suite(),     handlers_suite(),
          serving_suite(),       access_suite(),       saturation_suite(),  idle_suite(),
          config_suite(),        resources_suite(),    clients_suite(),     control_abuse_suite(),
          control_trust_suite(), git_suite(),          rsync_suite(),       ssh_suite(),
          tcpserver_suite(),     echo_load_suite(),    systemd_suite(),     notify_suite(),
          instructions_suite(),  libpreforkd_suite(),  accept_suite(),      template_suite(),
          examples_suite(),      hostile_suite(),      paths_suite(),       moves_suite(),
          loading_suite(),       trust_rights_suite(), trust_reach_suite(), trust_left_suite(),
          trust_waits_suite(),   trust_unit_suite(),   trust_scope_suite(), log_suite(),
          waits_suite(),         leaks_suite(),        valgrind_suite(),    starts_suite(),
          figures_suite(),       odd_start_suite(),    versions_suite(),    files_suite(),
          orphans_suite(),       addresses_suite(),    ends_suite()};
}

}  // namespace preforkd::system_test
