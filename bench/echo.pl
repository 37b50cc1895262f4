# An echo server for preforkd, as echo.py: what the binding for Perl costs, and what lists of networks cost there.
use strict;
use warnings;
use Preforkd;

while (my $connection = Preforkd->next) {
    my $handle = $connection->handle;
    while (sysread $handle, my $data, 16384) { syswrite $handle, $data }
}
