// Who has a place at an endpoint, and who makes room when there are too many: whoever can connect could take
// every place, and so keep others out. Two houses stand beside each other: clients who may change things are
// never sent away for the sake of those who may not. In each, an owner is a user (of a Unix socket) or an
// address (of TCP); the owner who has the most loses the place that was silent longest. The same is done for
// memory: what is answered and not read. Pure: it knows no socket. Single threaded.
#pragma once

#include <cstddef>
#include <cstdint>
#include <list>
#include <map>

namespace preforkd {

struct Guest {
  uint64_t owner = 0;
  bool entitled = false;  // may change things: of the other house
  bool stays = false;     // waits for the daemon's answer: it is not sent away

  // Kept by Places.
  size_t held = 0;  // bytes of an answer that it has not read whole
  uint64_t heard = 0;
  std::list<Guest*>::iterator place{};
};

class Places {
 public:
  static constexpr size_t kEntitled = 192, kOthers = 128;  // places in each house
  static constexpr size_t kMostHeld = size_t{64} << 20;    // bytes, in each house

  // The guest lives until it has left. It counts as heard of just now.
  void enter(Guest& guest);
  void leave(Guest& guest);
  void hear_of(Guest& guest);
  void hold(Guest& guest, size_t bytes);

  // Who has to go for the house of this one to have no more than it can; null: nobody, or nobody who does not
  // stay. The newest may be the one.
  Guest* who_goes(bool entitled) const;

 private:
  struct Share {
    std::list<Guest*> guests;  // the one that was silent longest first
    size_t held = 0;
  };
  struct House {
    std::map<uint64_t, Share> shares;  // by owner; none is empty
    size_t guests = 0, held = 0;
  };
  House& house_of(const Guest& guest) { return houses_[guest.entitled]; }
  static Guest* most_silent(const Share& share, bool of_those_who_hold);
  static Guest* of_the_greediest(const House& house, size_t (*greed)(const Share&), bool holding);

  House houses_[2];
  uint64_t moment_ = 0;
};

}  // namespace preforkd
