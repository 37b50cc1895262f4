// The kinds of event that an operator looks for, each with its id in the journal (MESSAGE_ID=). The ids never
// change; what they mean, and what to do about it, is in systemd/preforkd.catalog. `make lint` checks that the
// two agree.
#pragma once

#include <cstddef>
#include <cstdint>
#include <iterator>

namespace preforkd {

// Also a field of Report (ipc/supervisor_messages.h).
enum class Event : uint32_t {
  kNone,  // a line like any other
  // What supervisors tell the daemon, and all that they may tell.
  kWorkerDied,
  kWorkerStopped,
  kStartTimedOut,
  kConnectionSlow,
  kConnectionTimedOut,
  kDrainForced,
  kAtMax,
  kForkRefused,
  kTemplateDied,
  // What the daemon sees itself.
  kPoolReady,
  kPoolDegraded,
  kPoolRecovered,
  kGenerationServes,
  kGenerationEnded,
  kSupervisorDied,
  kSupervisorSilent,
  kControlDied,
  kLogDied,
  kReloaded,
  kReloadRefused,
  kUpgraded,
  kUpgradeRefused,
};

inline constexpr struct {
  Event event;
  const char* id;
} kEventIds[] = {
    {Event::kWorkerDied, "4e8519854aa847d5bd2f0a3272b806fa"},
    {Event::kWorkerStopped, "83959a17f39f4700a940be432e47690d"},
    {Event::kStartTimedOut, "f742c7bd5f584cfba35dc4d362b9bad0"},
    {Event::kConnectionSlow, "0ee1c911826743a28d3b84e6ad9790f6"},
    {Event::kConnectionTimedOut, "28d4639902554a87ab3f189278d314f8"},
    {Event::kDrainForced, "f4fd868a15b84972b9ce38474bce1b77"},
    {Event::kAtMax, "aa411123f06f4316a39405101f267d45"},
    {Event::kForkRefused, "3fa82381d0a94dac9c44e5a259dc62d0"},
    {Event::kTemplateDied, "7e92eb8888414b04b6b81e6512df310c"},
    {Event::kPoolReady, "e1c0dfb4518e4a2298c24bf4ce1f488d"},
    {Event::kPoolDegraded, "d86831429a4645d3910c440d2bb70a1e"},
    {Event::kPoolRecovered, "88ad033ab8bf45d48bacf2a5ffdd9033"},
    {Event::kGenerationServes, "083d690320fe4f17bcdf57b39eb219c8"},
    {Event::kGenerationEnded, "e2e045c6904647e79f2a2c34744cc2c3"},
    {Event::kSupervisorDied, "bdd52dd3f666452e9bda6900cb174393"},
    {Event::kSupervisorSilent, "e3112d2e144a499e844aeebd8d817e43"},
    {Event::kControlDied, "7416c9f5bb354f4692dc3ca878ffb781"},
    {Event::kLogDied, "e7d8e4fbdc654ecd86e9081e5b91558a"},
    {Event::kReloaded, "e8b648b633c34abe9d25178e351b2418"},
    {Event::kReloadRefused, "91672b44378a417fbf528a2fc5476daf"},
    {Event::kUpgraded, "29b75ca34c6e4a028afb64c659dd59ac"},
    {Event::kUpgradeRefused, "0ea30eab42434d9289c95f8f318c2a07"},
};

// Null: none. A row for each, in the order of the enum, so that an event is the place of its row.
constexpr const char* event_id(Event event) {
  return event == Event::kNone ? nullptr : kEventIds[static_cast<size_t>(event) - 1].id;
}
static_assert([] {
  for (size_t i = 0; i < std::size(kEventIds); ++i)
    if (static_cast<size_t>(kEventIds[i].event) != i + 1) return false;
  return kEventIds[std::size(kEventIds) - 1].event == Event::kUpgradeRefused;
}());

// What a supervisor says is not trusted: any number may come, and it shall not speak for the daemon.
constexpr Event event_of_supervisor(Event said) {
  return said <= Event::kTemplateDied ? said : Event::kNone;
}

}  // namespace preforkd
