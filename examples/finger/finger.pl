# Finger (RFC 1288): who has an account on this machine.
#
# Answers a query of one line: "" with the list of users; a name, with or without "/W" before it, with those that it is
# the login of, or else a word of the name of. "@" forwards to another machine, and is refused. Accounts of people are
# root, those from 1000 on (but nobody), and those with a shell of /etc/shells.
#
# Settings: `passwd`, the file of the accounts (/etc/passwd).
use strict;
use warnings;

use Encode ();
use Fcntl qw(O_NOFOLLOW O_NONBLOCK O_RDONLY S_ISREG);
use Preforkd;
use Time::HiRes ();

use constant {
    LONGEST_LINE => 512,      # bytes of a query
    LONGEST_FILE => 16384,    # bytes of a .plan
    MOST_SHOWN   => 20,       # users of one name
    PATIENCE     => 30,       # seconds for a query, and as many for its answer
};

# --- accounts

sub login_shells {
    open my $file, '<', '/etc/shells' or return;
    chomp(my @lines = <$file>);
    return map { $_ => 1 } grep { m{^/} } @lines;
}

sub users {
    my $path   = Preforkd->settings->{passwd} // '/etc/passwd';
    my %shells = login_shells();
    open my $file, '<', $path or die "open $path: $!\n";
    my @users;
    while (my $line = <$file>) {
        chomp $line;
        my ($login, undef, $uid, undef, $gecos, $home, $shell) = split /:/, $line, -1;
        next if !defined $shell || $uid !~ /^\d+$/;
        next if $uid != 0 && ($uid < 1000 || $uid == 65534) && !$shells{$shell};
        my ($name) = split /,/, $gecos;
        $name //= '';
        $name =~ s/&/ucfirst $login/ge;
        push @users, { login => $login, uid => $uid, name => $name, home => $home, shell => $shell || '/bin/sh' };
    }
    return @users;
}

sub find {
    my ($wanted, @users) = @_;
    my @found = grep { $_->{login} eq $wanted } @users;
    return @found if @found;
    return grep {
        lc $_->{login} eq lc $wanted or grep { lc $_ eq lc $wanted } split ' ', $_->{name}
    } @users;
}

# What a user has written there for others to read: a file of the user's own, and no link to anybody else's.
sub own_file {
    my ($user, $name) = @_;
    sysopen my $file, "$user->{home}/$name", O_RDONLY | O_NOFOLLOW | O_NONBLOCK or return;
    my (undef, undef, $mode, undef, $owner) = stat $file;
    return if !S_ISREG($mode) || $owner != $user->{uid};
    read $file, my $text, LONGEST_FILE;
    return $text;
}

# --- answers

# No byte of it steers a terminal: what is neither text, tab nor the end of a line is shown as "?".
sub harmless {
    my $text = Encode::decode('UTF-8', $_[0], Encode::FB_DEFAULT);
    $text =~ s/\r\n?/\n/g;
    $text =~ s/[^\P{C}\t\n]|\x{fffd}/?/g;
    return Encode::encode('UTF-8', $text);
}

sub listed {
    my @lines = (sprintf('%-16s %s', 'Login', 'Name'), map { sprintf '%-16s %s', $_->{login}, $_->{name} } @_);
    return join '', map { s/ +$//r . "\n" } @lines;
}

sub described {
    my ($user) = @_;
    my $text = sprintf "Login: %-25s Name: %s\nDirectory: %-21s Shell: %s\n", @$user{qw(login name home shell)};
    my $project = own_file($user, '.project');
    $text .= 'Project: ' . ($project =~ s/\n.*//sr) . "\n" if defined $project && $project =~ /\S/;
    my $plan = own_file($user, '.plan');
    return $text . (defined $plan && $plan =~ /\S/ ? "Plan:\n" . ($plan =~ s/\n*$//r) . "\n" : "No plan.\n");
}

sub answer {
    my ($query) = @_;
    return "Forwarding is not offered.\n" if $query =~ /@/;
    $query =~ s{^/W(?: +|$)}{}i;    # "whois": all that there is to say is said anyway
    $query =~ s/^ +| +$//g;
    return listed(users()) if $query eq '';
    my @found = find($query, users());
    return "$query: no such user.\n" if !@found;
    my $more = @found - MOST_SHOWN;
    splice @found, MOST_SHOWN if $more > 0;
    return join("\n", map { described($_) } @found) . ($more > 0 ? "\n... and $more more.\n" : '');
}

# --- the connection

# The query without its end; undef when none comes in time, or one that is too long.
sub read_query {
    my ($handle) = @_;
    my ($query, $deadline) = ('', Time::HiRes::time() + PATIENCE);
    until ($query =~ s/\r?\n.*//s) {
        return if length $query > LONGEST_LINE || !is_ready($handle, $deadline);
        my $got = sysread $handle, $query, LONGEST_LINE, length $query;
        return if !$got;
    }
    return length $query <= LONGEST_LINE ? $query : undef;
}

sub is_ready {
    my ($handle, $deadline) = @_;
    my $seconds = $deadline - Time::HiRes::time();
    my $wanted  = '';
    vec($wanted, fileno $handle, 1) = 1;
    return $seconds > 0 && select($wanted, undef, undef, $seconds) > 0;
}

Preforkd->serve(sub {
    my ($connection) = @_;
    my $handle = $connection->handle;
    my $query  = read_query($handle);
    return $connection->fail if !defined $query;
    $connection->note($query eq '' ? 'the list' : $query);
    # An answer is at most some hundred kilobytes: a client that does not read it meets timeouts.connection.
    print $handle harmless(answer($query)) =~ s/\n/\r\n/gr;
});
