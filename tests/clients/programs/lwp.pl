use strict;
use warnings;
use HTTP::Request::Common;
use LWP::UserAgent;

my $agent = LWP::UserAgent->new;
my $action = shift @ARGV;

sub check {
    my ($response) = @_;
    my $broken = $response->header('X-Died') || $response->header('Client-Aborted');
    die $response->status_line . ' ' . $response->decoded_content . "\n" if !$response->is_success || $broken;
    return $response;
}

if ($action eq 'upload') {
    my ($form, $url, $file) = @ARGV;
    my $request;
    open my $data, '<:raw', $file or die $!;
    if ($form eq 'form') {
        $request = POST $url, Content_Type => 'form-data', Content => [file => [$file]];
    } elsif ($form eq 'chunked') {
        my $next = sub { my $read = read $data, my $block, 65536; return $read ? $block : '' };
        $request = HTTP::Request->new(POST => $url, ['Content-Type' => 'text/csv'], $next);
    } else {
        local $/;
        $request = HTTP::Request->new(POST => $url, ['Content-Type' => 'text/csv'], <$data>);
    }
    print check($agent->request($request))->content;
} else {
    my ($url, $file) = @ARGV;
    check($agent->get($url, ':content_file' => $file));
}
