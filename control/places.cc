#include "control/places.h"

namespace preforkd {

void Places::enter(Guest& guest) {
  House& house = house_of(guest);
  auto& guests = house.shares[guest.owner].guests;
  guest.place = guests.insert(guests.end(), &guest);
  guest.heard = ++moment_;
  ++house.guests;
}

void Places::leave(Guest& guest) {
  hold(guest, 0);
  House& house = house_of(guest);
  auto share = house.shares.find(guest.owner);
  share->second.guests.erase(guest.place);
  if (share->second.guests.empty()) house.shares.erase(share);
  --house.guests;
}

void Places::hear_of(Guest& guest) {
  auto& guests = house_of(guest).shares[guest.owner].guests;
  guests.splice(guests.end(), guests, guest.place);
  guest.heard = ++moment_;
}

void Places::hold(Guest& guest, size_t bytes) {
  House& house = house_of(guest);
  Share& share = house.shares[guest.owner];
  share.held += bytes - guest.held;
  house.held += bytes - guest.held;
  guest.held = bytes;
}

Guest* Places::most_silent(const Share& share, bool of_those_who_hold) {
  for (Guest* guest : share.guests)
    if (!guest->stays && (guest->held > 0 || !of_those_who_hold)) return guest;
  return nullptr;
}

// Of owners who have as much, it is the one whose guest was silent longer.
Guest* Places::of_the_greediest(const House& house, size_t (*greed)(const Share&), bool holding) {
  Guest* goes = nullptr;
  size_t most = 0;
  for (const auto& [owner, share] : house.shares) {
    const size_t much = greed(share);
    if (much < most) continue;
    Guest* guest = most_silent(share, holding);
    if (!guest || (goes && much == most && guest->heard > goes->heard)) continue;
    goes = guest;
    most = much;
  }
  return goes;
}

Guest* Places::who_goes(bool entitled) const {
  const House& house = houses_[entitled];
  if (house.guests > (entitled ? kEntitled : kOthers))
    return of_the_greediest(
        house, [](const Share& s) { return s.guests.size(); }, false);
  if (house.held > kMostHeld)
    return of_the_greediest(
        house, [](const Share& s) { return s.held; }, true);
  return nullptr;
}

}  // namespace preforkd
