// base/networks, base/range_set, conf/network_lists: lists of networks, which of two that match decides, and how processes
// come by them.
#include "base/networks.h"

#include <arpa/inet.h>
#include <netinet/in.h>

#include <algorithm>
#include <random>

#include "base/memory_file.h"
#include "conf/network_lists.h"
#include "tests/unit/unit_test.h"

using namespace preforkd;

namespace {

SocketAddress socket_address(const char* text) {
  SocketAddress address;
  auto* v4 = reinterpret_cast<sockaddr_in*>(&address.storage);
  auto* v6 = reinterpret_cast<sockaddr_in6*>(&address.storage);
  if (inet_pton(AF_INET, text, &v4->sin_addr) == 1) {
    v4->sin_family = AF_INET;
    address.length = sizeof *v4;
  } else {
    CU_ASSERT_EQUAL_FATAL(inet_pton(AF_INET6, text, &v6->sin6_addr), 1);
    v6->sin6_family = AF_INET6;
    address.length = sizeof *v6;
  }
  return address;
}
IpAddress ip(const char* text) { return *ip_of(socket_address(text)); }

void networks_are_read() {
  std::string error;
  for (const char* good : {"10.0.0.0/8", "0.0.0.0/0", "192.0.2.7", "192.0.2.7/32", "::/0",
                           "2001:db8::/32", "::1", "fe80::/10", "2001:db8:0:8000::/49"})
    CU_ASSERT_TRUE(parse_network(good, error).has_value());
  static const struct {
    const char *text, *said;
  } kBad[] = {
      {"", "expected an address or a network"},
      {"example.org/8", "expected an address or a network"},
      {"10.0.0/8", "expected an address or a network"},
      {"10.0.0.0/", "expected a prefix from 0 to 32"},
      {"10.0.0.0/33", "expected a prefix from 0 to 32"},
      {"10.0.0.0/-1", "expected a prefix from 0 to 32"},
      {"10.0.0.0/08", "expected a prefix from 0 to 32"},
      {"10.0.0.0/8x", "expected a prefix from 0 to 32"},
      {"10.0.0.0/255.0.0.0", "expected a prefix from 0 to 32"},
      {"::/129", "expected a prefix from 0 to 128"},
      {"10.1.2.3/8", "did you mean \"10.0.0.0/8\"?"},
      {"2001:db8::1/32", "did you mean \"2001:db8::/32\"?"},
      {"[::1]/128", "expected an address or a network"},
      {"::ffff:10.0.0.5", "expected an IPv4 address as IPv4"},
      {"::ffff:0:0/96", "expected an IPv4 address as IPv4"},
  };
  for (const auto& row : kBad) {
    error.clear();
    CU_ASSERT_FALSE(parse_network(row.text, error).has_value());
    const bool said = error.find(row.said) != error.npos;
    if (!said) std::printf("\n  %s: %s\n", row.text, error.c_str());
    CU_ASSERT_TRUE(said);
  }
}

void networks_contain() {
  static const struct {
    const char *network, *address;
    bool inside;
  } kRows[] = {
      {"10.0.0.0/8", "10.255.255.255", true},
      {"10.0.0.0/8", "11.0.0.0", false},
      {"10.0.0.0/9", "10.127.0.1", true},
      {"10.0.0.0/9", "10.128.0.1", false},
      {"192.0.2.7", "192.0.2.7", true},
      {"192.0.2.7", "192.0.2.6", false},
      {"0.0.0.0/0", "255.255.255.255", true},
      {"::/0", "2001:db8::1", true},
      {"::/0", "10.0.0.1", false},
      {"0.0.0.0/0", "::1", false},
      {"2001:db8::/33", "2001:db8:7fff::", true},
      {"2001:db8::/33", "2001:db8:8000::", false},
      {"10.0.0.0/8", "::ffff:10.1.2.3", true},  // an IPv4 client of a socket for both
  };
  std::string error;
  for (const auto& row : kRows) {
    const bool inside = parse_network(row.network, error)->contains(ip(row.address));
    if (inside != row.inside) std::printf("\n  %s in %s\n", row.address, row.network);
    CU_ASSERT_EQUAL(inside, row.inside);
  }
}

void the_longest_prefix_decides() {
  const AccessList all{};
  CU_ASSERT_TRUE(all.lets_in(ip("192.0.2.1")) && all.lets_in(ip("::1")));
  const AccessList some{parse_networks({"10.0.0.0/8", "10.1.2.3"}),
                        parse_networks({"10.1.0.0/16"})};
  CU_ASSERT_TRUE(some.lets_in(ip("10.2.0.0")));
  CU_ASSERT_FALSE(some.lets_in(ip("10.1.0.0")));
  CU_ASSERT_TRUE(some.lets_in(ip("10.1.2.3")));
  CU_ASSERT_FALSE(some.lets_in(ip("192.0.2.1")));  // nobody named it
  CU_ASSERT_FALSE(some.lets_in(ip("::1")));
  const AccessList but_one{{}, parse_networks({"2001:db8::/32"})};
  CU_ASSERT_FALSE(but_one.lets_in(ip("2001:db8::1")));
  CU_ASSERT_TRUE(but_one.lets_in(ip("2001:db9::1")));
  CU_ASSERT_TRUE(but_one.lets_in(ip("10.0.0.1")));
}

// --- against a scan of all networks, which is what a list means

int longest_match(const std::vector<Network>& networks, const IpAddress& address) {
  int longest = -1;
  for (const Network& network : networks)
    if (network.contains(address)) longest = std::max<int>(longest, network.prefix);
  return longest;
}
bool scan_lets_in(const std::vector<Network>& allow, const std::vector<Network>& deny,
                  const IpAddress& address) {
  const int allowed = longest_match(allow, address), denied = longest_match(deny, address);
  if (allowed == -1 && denied == -1) return allow.empty();
  return allowed > denied;
}

void flip(IpAddress& address, int bit) {
  address.bytes[static_cast<size_t>(bit / 8)] ^= static_cast<uint8_t>(0x80 >> bit % 8);
}

class RandomNetworks {
 public:
  explicit RandomNetworks(unsigned seed) : random_(seed) {}

  unsigned below(unsigned bound) { return static_cast<unsigned>(random_() % bound); }
  // All but a few bits at either end and in the middle are the same, so that networks nest, and touch.
  IpAddress address() {
    IpAddress one;
    one.v6 = below(2) == 0;
    const int bits = one.v6 ? 128 : 32;
    for (const int from : {0, bits / 2 - 3, bits - 6})
      for (int bit = from; bit < from + 6; ++bit)
        if (below(2)) flip(one, bit);
    if (one.v6 && below(4) == 0) one = scoped(one);
    return one;
  }
  Network network() {
    Network one{address(), 0};
    const unsigned bits = one.address.v6 ? 128 : 32;
    const unsigned picked[] = {0, 1, bits / 2, bits - 1, bits, below(bits + 1), below(bits + 1)};
    one.prefix = static_cast<uint8_t>(picked[below(std::size(picked))]);
    for (int bit = one.prefix; bit < static_cast<int>(bits); ++bit)
      one.address.bytes[static_cast<size_t>(bit / 8)] &= static_cast<uint8_t>(~(0x80 >> bit % 8));
    return one;
  }
  std::vector<Network> list() {
    std::vector<Network> all(below(3) ? below(20) : 0);
    for (Network& network : all) network = this->network();
    if (!all.empty() && below(3) == 0) all.push_back(all.front());  // twice
    return all;
  }

 private:
  static IpAddress scoped(IpAddress address) {  // fe80::...
    address.bytes[0] = 0xfe;
    address.bytes[1] = 0x80;
    return address;
  }

  std::mt19937 random_;
};

// The first and the last address of it, and those beside these.
std::vector<IpAddress> edges_of(const Network& network) {
  const int bits = network.address.v6 ? 128 : 32;
  IpAddress first = network.address, last = first;
  for (int bit = network.prefix; bit < bits; ++bit) flip(last, bit);
  std::vector<IpAddress> edges{first, last};
  auto next = [&](IpAddress from, uint8_t carried, int step) {  // wraps around
    for (int i = bits / 8 - 1; i >= 0; --i) {
      auto& byte = from.bytes[static_cast<size_t>(i)];
      const bool carries = byte == carried;
      byte = static_cast<uint8_t>(byte + step);
      if (!carries) break;
    }
    edges.push_back(from);
  };
  next(first, 0, -1);
  next(last, 0xff, 1);
  return edges;
}

void a_set_means_what_a_scan_says() {
  RandomNetworks random(1);
  size_t asked = 0, wrong = 0, in = 0;
  for (int round = 0; round < 1000; ++round) {
    const std::vector<Network> allow = random.list();
    std::vector<Network> deny = random.list();
    if (!allow.empty() && random.below(4) == 0) deny.push_back(allow.front());  // both: denied
    const std::vector<Network>* both[] = {&allow, &deny};
    const AccessList list(allow, deny);
    const FlatSet trusted = flat_set(allow, {}, false);
    std::vector<IpAddress> addresses{ip("0.0.0.0"), ip("255.255.255.255"), ip("::"),
                                     ip("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff")};
    for (const auto* networks : both)
      for (const Network& network : *networks)
        for (const IpAddress& edge : edges_of(network)) addresses.push_back(edge);
    for (int i = 0; i < 20; ++i) addresses.push_back(random.address());
    for (const IpAddress& address : addresses) {
      // What no client has: an IPv4 address is IPv4 wherever it comes from.
      if (address.v6 && number_of(address).high == 0 && number_of(address).low >> 32 == 0xffff)
        continue;
      ++asked;
      const bool expected = scan_lets_in(allow, deny, address);
      in += expected;
      if (list.lets_in(address) != expected) {
        if (wrong++ == 0) std::printf("\n  round %d: %s\n", round, to_string(address).c_str());
      }
      wrong += RangeSet(trusted.data()).contains(number_of(address)) !=
               (longest_match(allow, address) != -1);
    }
  }
  CU_ASSERT_EQUAL(wrong, 0);
  CU_ASSERT(in > asked / 10 && in < asked - asked / 10);  // it could have been seen
}

void what_a_set_does_not_need() {
  CU_ASSERT(RangeSet::of_all().has_all() && RangeSet::of_all().contains({~0ULL, ~0ULL}));
  CU_ASSERT(!RangeSet{}.has_all() && !RangeSet{}.contains({}));
  auto set = [](const FlatSet& flat) { return RangeSet(flat.data()); };
  CU_ASSERT_TRUE(set(AccessList().flat()).has_all());
  CU_ASSERT_TRUE(set(AccessList(parse_networks({"::/0", "0.0.0.0/0"}), {}).flat()).has_all());
  CU_ASSERT_FALSE(set(AccessList(parse_networks({"::/0"}), {}).flat()).has_all());
  CU_ASSERT_FALSE(set(AccessList({}, parse_networks({"10.0.0.0/8"})).flat()).has_all());
  // Neighbours and what lies within them are one range: a word that says so, a sample, and its two ends.
  std::vector<std::string> all;
  for (int i = 0; i < 256; ++i) all.push_back("10.0." + std::to_string(i) + ".0/24");
  for (int i = 0; i < 256; ++i) all.push_back("10.0.7." + std::to_string(i));
  CU_ASSERT_EQUAL(flat_set(parse_networks(all), {}, false).size(), 4);
}

// As many as a configuration may have, none of which touch: more than one sample, and the last of them not full.
void many_networks() {
  constexpr uint32_t kMany = 65536;
  std::vector<Network> deny(kMany);
  for (uint32_t i = 0; i < kMany; ++i) {
    deny[i].address.bytes = {10, static_cast<uint8_t>(i >> 8), static_cast<uint8_t>(i), 128};
    deny[i].prefix = 25;
  }
  const AccessList list({}, deny);
  size_t wrong = 0;
  for (uint32_t i = 0; i < kMany; ++i) {
    IpAddress address = deny[i].address;
    for (const uint8_t last : std::initializer_list<uint8_t>{0, 127, 128, 255}) {
      address.bytes[3] = last;
      wrong += list.lets_in(address) != (last < 128);
    }
  }
  CU_ASSERT_EQUAL(wrong, 0);
  CU_ASSERT_EQUAL(list.flat().size(), RangeSet::flat_size(2 * kMany + 1));
}

// --- the file

bool is_mapped(int fd) {
  try {
    NetworkLists lists(fd);
    return true;
  } catch (const std::runtime_error&) {
    return false;
  }
}

void lists_are_a_file() {
  PoolSettings settings;
  {
    const UniqueFd file = make_network_lists(settings);
    const NetworkLists none(file.get());
    CU_ASSERT(none.access().has_all() && !none.trusted().contains(number_of(ip("127.0.0.1"))));
  }
  settings.deny = {"10.0.0.0/8", "2001:db8::/32"};
  settings.trusted = {"127.0.0.1"};
  const UniqueFd file = make_network_lists(settings);
  const NetworkLists lists(file.get());
  auto has_access = [&](const char* text) { return lists.access().contains(number_of(ip(text))); };
  auto is_trusted = [&](const char* text) { return lists.trusted().contains(number_of(ip(text))); };
  CU_ASSERT(!has_access("10.1.2.3") && has_access("11.1.2.3") && !has_access("2001:db8::1"));
  CU_ASSERT(is_trusted("127.0.0.1") && !is_trusted("127.0.0.2") && !is_trusted("10.1.2.3"));
  // Whoever inherits it can neither change it nor cut it off under those who read.
  CU_ASSERT(pwrite(file.get(), "x", 1, 0) < 0 && errno == EPERM);
  CU_ASSERT(ftruncate(file.get(), 0) < 0 && errno == EPERM);
  CU_ASSERT(mmap(nullptr, 1, PROT_WRITE, MAP_SHARED, file.get(), 0) == MAP_FAILED);
}

void what_is_no_file_of_lists() {
  const Number128 two_sets[] = {{1, 0}, {0, 0}, {0, 0}, {0, 0}};
  for (const size_t words : {1, 2, 3, 4}) {
    const UniqueFd file = make_memory_file("lists");
    const auto size = static_cast<ssize_t>(words * sizeof two_sets[0]);
    CU_ASSERT_EQUAL_FATAL(write(file.get(), two_sets, static_cast<size_t>(size)), size);
    CU_ASSERT_EQUAL(is_mapped(file.get()), words == 4);
  }
  const UniqueFd file = make_memory_file("lists");
  const Number128 too_many{~0ULL, 0};
  CU_ASSERT_EQUAL(write(file.get(), &too_many, sizeof too_many), ssize_t{sizeof too_many});
  CU_ASSERT_FALSE(is_mapped(file.get()));
}

void sources() {
  CU_ASSERT_EQUAL(source_of(ip("2001:db8::1")), source_of(ip("2001:db8::ffff:1")));
  CU_ASSERT_NOT_EQUAL(source_of(ip("2001:db8::1")), source_of(ip("2001:db8:0:1::1")));
  CU_ASSERT_EQUAL(source_of(ip("10.0.0.1")), source_of(ip("::ffff:10.0.0.1")));
  CU_ASSERT_NOT_EQUAL(source_of(ip("10.0.0.1")), source_of(ip("10.0.0.2")));
  CU_ASSERT_FALSE(ip_of(SocketAddress{}).has_value());
}

}  // namespace

void add_networks_tests() {
  static const unit::Test kTests[] = {
      {"networks are read", networks_are_read},
      {"networks contain", networks_contain},
      {"the longest prefix decides", the_longest_prefix_decides},
      {"a set means what a scan says", a_set_means_what_a_scan_says},
      {"what a set does not need", what_a_set_does_not_need},
      {"many networks", many_networks},
      {"lists are a file", lists_are_a_file},
      {"what is no file of lists", what_is_no_file_of_lists},
      {"sources", sources},
  };
  unit::add_suite("networks", kTests);
}
