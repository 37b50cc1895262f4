# A worker that a client can make crash (bench/crash.cc). With an argument it only starts: what that costs.
use strict;
use warnings;
use POSIX ();
use Preforkd;

if (@ARGV) {
    Preforkd::_load();
    POSIX::_exit(0);
}
Preforkd->serve(sub {
    my $handle = $_[0]->handle;
    sysread $handle, my $first, 1;
    POSIX::abort() if $first eq 'c';
    print $handle "done\n";
});
