package Preforkd;

use strict;
use warnings;

use FFI::Platypus 2.00;
use IO::Socket;
use Socket ();

# struct preforkd_connection, with room for what a later version adds at its end.
package Preforkd::Filled {
    use FFI::Platypus::Record;
    record_layout_1(
        uint32 => 'size', int => 'fd', opaque => 'peer', uint32 => 'peer_length', uint64 => 'number',
        opaque => 'local', uint32 => 'local_length', 'string(256)' => 'later',
    );
}

my $loaded;                            # whether libpreforkd is
my $in_hand;                           # the connection that is not over
my $filled = Preforkd::Filled->new;    # by each preforkd_accept
my ($pool, $settings);
my (@after_fork, $call_after_fork);    # what is called in each worker

sub _load {
    return if $loaded;
    local $SIG{__WARN__} = sub { die @_ };    # that is how FFI::Platypus says why it has not found it
    my $ffi = FFI::Platypus->new(api => 2, lib => $ENV{PREFORKD_LIBRARY} // 'libpreforkd.so.1');
    $ffi->type('record(Preforkd::Filled)*' => 'connection');
    for (
        [accept   => ['connection']      => 'int'],
        [done     => ['int']             => 'void'],
        [note     => ['string']          => 'void'],
        [extend   => ['uint32']          => 'void'],
        [recycle  => []                  => 'void'],
        [log      => ['int', 'string']   => 'void'],
        [peer     => []                  => 'string'],
        [pool     => []                  => 'string'],
        [settings => []                  => 'string'],
        [error    => []                  => 'string'],
        [after_fork => ['(opaque)->void', 'opaque'] => 'int'],
    ) {
        my ($name, $arguments, $result) = @$_;
        next if !$ffi->find_symbol("preforkd_$name");    # of a version before
        $ffi->attach(["preforkd_$name" => "_c_$name"] => $arguments => $result);
    }
    $call_after_fork = $ffi->closure(\&_call_after_fork);
    $loaded = 1;
}
sub _can_load { $loaded or eval { _load(); 1 } }

sub next {
    _can_load() or die 'preforkd has not started this process (' . _line($@) . ")\n";
    $in_hand->_end if $in_hand;
    $SIG{PIPE} //= 'IGNORE';    # a client that has gone is an error of print
    my $got = _c_accept($filled);
    return if $got == 0;
    die _c_error(), "\n" if $got < 0;
    return $in_hand = Preforkd::Connection->_new($filled);
}

sub serve {
    my $function = pop;
    while (my $connection = Preforkd->next) {
        next if eval { $function->($connection); 1 };
        my ($error, $peer) = ($@, _c_peer());
        $connection->fail;
        Preforkd->log("serve $peer: " . _line($error), 3);
    }
}

sub log {
    my (undef, $text, $level) = @_;
    return print STDERR _line($text), "\n" if !_can_load();
    _c_log($level // 6, _octets($text));
}

sub after_fork {
    my $function = pop;
    push @after_fork, $function;
    _c_after_fork($call_after_fork, undef) if @after_fork == 1 && _can_load();
}

sub _call_after_fork {
    return if eval { $_->() for @after_fork; 1 };
    print STDERR _line($@), "\n";
    require POSIX;
    POSIX::_exit(1);
}

sub recycle { _c_recycle() if _can_load() }
sub pool    { $pool //= _can_load() ? _c_pool() : undef }

sub settings {
    return $settings //= do {
        require JSON::PP;
        JSON::PP::decode_json((_can_load() ? _c_settings() : undef) // '{}');
    };
}

sub _line { join ' ', split ' ', "$_[0]" }

# What C takes: bytes, and none of them 0.
sub _octets {
    my $text = "$_[0]";
    utf8::encode($text) if utf8::is_utf8($text);
    $text =~ tr/\0/?/;
    return $text;
}

package Preforkd::Connection;

my %KINDS = (
    Socket::AF_INET()  => 'IO::Socket::INET',
    Socket::AF_INET6() => 'IO::Socket::IP',
    Socket::AF_UNIX()  => 'IO::Socket::UNIX',
);

sub _new {
    my ($class, $filled) = @_;
    my $peer = _bytes_at($filled->peer, $filled->peer_length);
    my $kind = $KINDS{ unpack 'S', $peer } // 'IO::Socket';
    require IO::Socket::IP if $kind eq 'IO::Socket::IP';
    my $handle = $kind->new_from_fd($filled->fd, '+<') or die "open descriptor ", $filled->fd, ": $!\n";
    $handle->autoflush(1);
    return bless {
        handle => $handle,
        number => $filled->number,
        peer   => $peer,
        local  => _bytes_at($filled->local, $filled->local_length),
    }, $class;
}

sub handle { $_[0]{handle} }
sub number { $_[0]{number} }
sub peer   { _address($_[0]{peer}) }
sub local  { _address($_[0]{local}) }
sub fail   { $_[0]{failed} = 1 }

sub note {
    my ($self, $text) = @_;
    $text =~ tr/\x20-\x7e/?/c;
    Preforkd::_c_note($text) if $self->_is_in_hand;
}

sub extend {
    my ($self, $seconds) = @_;
    my $milliseconds = $seconds * 1000;
    $milliseconds = 0          if $milliseconds < 0;
    $milliseconds = 0xffffffff if $milliseconds > 0xffffffff;
    Preforkd::_c_extend(int $milliseconds) if $self->_is_in_hand;
}

sub _is_in_hand { $in_hand && $_[0] == $in_hand }

# Counted before it is closed: a client that has seen the end finds it counted.
sub _end {
    my ($self) = @_;
    my $handle = $self->{handle};
    undef $in_hand;
    # A handle that the program has made something else of may die of either.
    if (!eval { $self->{failed} = 1 if $handle->opened && !defined $handle->flush; 1 }) {
        my ($error, $peer) = ($@, Preforkd::_c_peer());
        $self->{failed} = 1;
        Preforkd->log("serve $peer: " . Preforkd::_line($error), 3);
    }
    Preforkd::_c_done($self->{failed} ? 0 : 1);
    eval { close $handle };
}

sub _bytes_at {
    my ($where, $length) = @_;
    return unpack "P$length", pack 'J', $where;
}

sub _address {
    my ($raw) = @_;
    my $family = unpack 'S', $raw;
    if ($family == Socket::AF_UNIX()) {
        my $path = substr $raw, 2;
        return $path =~ s/^\0/@/ ? $path : $path =~ s/\0.*//sr;
    }
    my ($port, $host) = $family == Socket::AF_INET() ? unpack 'x2na4', $raw : unpack 'x2nx4a16', $raw;
    $host = Socket::inet_ntop($family, $host);
    return wantarray ? ($host, $port) : $family == Socket::AF_INET() ? "$host:$port" : "[$host]:$port";
}

1;

__END__

=encoding utf8

=head1 NAME

Preforkd - connections from preforkd, for a program that it runs

=head1 SYNOPSIS

    # serve = [ "perl", "app.pl" ];
    use Preforkd;

    while (my $connection = Preforkd->next) {
        my $handle = $connection->handle;
        while (my $line = <$handle>) {
            print $handle "you said: $line";
        }
    }

or, where a C<die> shall end its connection and not the program:

    Preforkd->serve(sub {
        my ($connection) = @_;
        ...
    });

=head1 DESCRIPTION

The process serves one connection at a time, for as long as it takes; preforkd runs as many such processes as there
are connections. It needs L<FFI::Platypus> (Debian: libffi-platypus-perl), because Perl by itself cannot call a C
library. The module can be loaded anywhere, so that a program that uses it can be tested; outside of preforkd, C<next>
dies, C<pool> is undef, and C<settings> is empty.

=head2 Preforkd->next

The next connection, however long it takes until there is one; the one before is counted and closed. Nothing: this
process is not needed any more, and ends. It dies if there is none to be had. What is not caught ends the
program, as Perl does: that is a crash to preforkd, which starts another one.

SIGPIPE is ignored from the first call on, unless C<$SIG{PIPE}> is set: a client that has gone is an error of
C<print>.

=head2 Preforkd->serve(sub { ... })

Calls the function with each connection, until this process is not needed any more. When it dies, that is logged, and
its connection is closed and counted as failed; then it goes on.

=head2 Preforkd->pool, Preforkd->settings

The pool's name, and its C<settings> as a reference to a hash.

=head2 Preforkd->log($text, $level)

One line for preforkd's log; the level is syslog's: 3 error, 4 warning, 6 info (the default), 7 debug.

=head2 Preforkd->after_fork(sub { ... })

Calls the function in each worker before its first connection. With C<preload = true> preforkd starts the program once, and
forks it where it waits for its first connection: what workers must not share (a connection to a database, random numbers
taken before) is made here. Without C<preload> it is called all the same. When it dies, the worker ends before it has
served anybody. For the time before the first C<next>.

=head2 Preforkd->recycle

This process is worn out: it leaves after the connection in hand, and is replaced.

=head1 A CONNECTION

=over

=item handle

An L<IO::Socket> (::INET, ::IP or ::UNIX), with autoflush. Leave it open: it is closed once the connection is counted.

=item peer, local

The client's address, and the one that it connected to: host and port in list context, "192.0.2.1:4242" or
"[2001:db8::1]:4242" else; the path of a Unix socket in both, "" without one.

=item number

1 for this process's first connection, and so on.

=item note($text)

What is being done, for C<preforkctl workers>: up to 127 characters of printable ASCII.

=item extend($seconds)

It may take so long from now, whatever C<timeouts.connection> says.

=item fail

Count it as failed; else it counts as served.

=back

=cut
