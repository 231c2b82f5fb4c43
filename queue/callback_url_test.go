package queue

import (
	"errors"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"testing"

	"github.com/weir-run/weir/function"
)

func aSender(t testing.TB, cfg CallbackConfig) *callbacks {
	t.Helper()
	c, err := newCallbacks(cfg, callbackHost{log: slog.New(slog.NewTextHandler(io.Discard, nil))})
	if err != nil {
		t.Fatal(err)
	}
	c.guard.local = func() ([]net.Addr, error) {
		return []net.Addr{
			&net.IPNet{IP: net.ParseIP("10.9.8.7"), Mask: net.CIDRMask(24, 32)},
			&net.IPNet{IP: net.ParseIP("2001:db8::7"), Mask: net.CIDRMask(64, 128)},
		}, nil
	}
	return c
}

func TestCheckCallback(t *testing.T) {
	c := aSender(t, CallbackConfig{
		Allow: []string{"127.0.0.2", "169.254.9.0/24", "metadata.example", "[fd00:ec2::23]", "::ffff:127.1.0.0/112", "192.168.1.1"},
		Own:   []string{"weir", "Weir.apps.SVC", "127.0.0.1:8080", "[::1]:8080"}, Namespace: "apps",
	})
	for _, row := range []struct{ url, want string }{
		{"http://receiver.example/hook?a=b%20c#d", ""},
		{"https://receiver.example:8443", ""},
		{"HTTPS://RECEIVER.example./", ""},
		{"http://10.1.2.3:9/", ""},
		{"http://192.168.4.5/", ""},
		{"http://172.16.0.1/", ""},
		{"http://100.64.0.1/", ""},
		{"http://[fd12:3456::1]/", ""},
		{"http://[2001:db8::8]/", ""},
		{"http://receiver_1.apps/", ""},
		{"http://xn--bcher-kva.example/", ""},
		{"http://receiver.example:/", ""},

		{"http://127.0.0.2/", ""},
		{"http://169.254.9.255/", ""},
		{"http://metadata.example/", ""},
		{"http://[fd00:ec2::23]/", ""},
		{"http://127.1.255.3/", ""},
		{"http://169.254.8.255/", "link-local"},
		{"http://[fd00:ec2::24]/", "metadata"},

		{"", "http://"},
		{"receiver.example/hook", "http://"},
		{"ftp://receiver.example/", "http://"},
		{"file:///etc/passwd", "http://"},
		{"unix:///run/docker.sock", "http://"},
		{"javascript:alert(1)", "http://"},
		{"http:receiver.example", "no host"},
		{"http:///hook", "no host"},
		{"http://:80/", "no host"},
		{"http://user:secret@receiver.example/", "user or password"},
		{"http://user@receiver.example/", "user or password"},
		{"http://receiver.example:0/", "1 to 65535"},
		{"http://receiver.example:65536/", "1 to 65535"},
		{"http://receiver.example:http/", "cannot be read"},
		{"http://receiver.example/a b", "space"},
		{"http://receiver.example/\r\nX: y", "space"},
		{"http://bücher.example/", "percent-encode"},
		{"http://b%C3%BCcher.example/", "xn--"},
		{"http://receiver..example/", "no name"},
		{"http://receiver!.example/", "no name"},
		{"http://*.example/", "no name"},
		{"http://" + strings.Repeat("a", 64) + ".example/", "no name"},
		{"http://" + strings.Repeat("a.", 130) + "example/", "longer than a name"},
		{"http://receiver.example/" + strings.Repeat("x", maxCallbackURL), "at most 2048"},

		// Some resolvers take these for addresses.
		{"http://2130706433/", "no address"},
		{"http://127.1/", "no address"},
		{"http://0x7f.0.0.1/", "no address"},
		{"http://0177.0.0.1/", "no address"},
		{"http://127.0.0.0x1/", "no address"},
		{"http://127.0.0.1./", "loopback"},

		{"http://localhost/", "loopback"},
		{"http://LOCALHOST.:9/", "loopback"},
		{"http://a.localhost/", "loopback"},
		{"http://127.0.0.1/", "loopback"},
		{"http://127.255.255.254/", "loopback"},
		{"http://0.0.0.0/", "unspecified"},
		{"http://0.1.2.3/", "unspecified"},
		{"http://169.254.169.254/latest/meta-data", "metadata"},
		{"http://168.63.129.16/", "metadata"},
		{"http://100.100.100.200/", "metadata"},
		{"http://192.0.0.192/", "metadata"},
		{"http://224.0.0.1/", "multicast"},
		{"http://239.255.255.250/", "multicast"},
		{"http://255.255.255.255/", "reserved"},
		{"http://10.9.8.7/", "this host"},
		{"http://[::]/", "unspecified"},
		{"http://[::1]/", "loopback"},
		{"http://[::7f00:1]/", "reserved"},
		{"http://[::ffff:127.0.0.1]/", "loopback"},
		{"http://[::ffff:a9fe:a9fe]/", "link-local"},
		{"http://[::ffff:10.9.8.7]/", "this host"},
		{"http://[fe80::1]/", "link-local"},
		{"http://[fe80::1%25eth0]/", "zone"},
		{"http://[ff02::1]/", "multicast"},
		{"http://[fd00:ec2::254]/", "metadata"},
		{"http://[fd20:ce::254]/", "metadata"},
		{"http://[fd00:42::42]/", "metadata"},
		{"http://[2001:db8::7]/", "this host"},
		{"http://[64:ff9b::127.0.0.1]/", "loopback"},
		{"http://[64:ff9b::a9fe:a9fe]/", "link-local"},
		{"http://[64:ff9b::10.9.8.7]/", "this host"},
		{"http://[64:ff9b::127.0.0.2]/", ""},
		{"http://[64:ff9b::8.8.8.8]/", ""},
		{"http://[64:ff9b:1::8.8.8.8]/", "NAT64"},
		{"http://[::ffff:0:7f00:1]/", "loopback"},
		{"http://[2002:7f00:1::]/", "loopback"},
		{"http://[2002:808:808::1]/", ""},
		{"http://[2001::1]/", "Teredo"},

		{"http://weir/function/f", ""},
		{"http://WEIR:8080/async-function/f.ns/x?y", ""},
		{"https://weir.apps.svc/function/f/", ""},
		{"http://127.0.0.1:8080/function/f", ""},
		{"http://[::1]:8080/function/f", ""},
		{"http://127.0.0.1:8081/function/f", "loopback"},
		{"http://weir/", "under /function/NAME"},
		{"http://weir/system/functions", "under /function/NAME"},
		{"http://weir/function", "under /function/NAME"},
		{"http://weir/function/", "expected NAME"},
		{"http://weir/function/F", "expected NAME"},
		{"http://weir/function/../system/functions", "expected NAME"},
	} {
		err := c.check(row.url)
		switch {
		case row.want == "" && err != nil:
			t.Errorf("%s: %v", row.url, err)
		case row.want != "" && err == nil:
			t.Errorf("%s is taken, expected %q", row.url, row.want)
		case row.want != "" && !strings.Contains(err.Error(), row.want):
			t.Errorf("%s: %v, expected %q", row.url, err, row.want)
		}
		if err != nil && errors.Is(err, errRefused) != strings.Contains(err.Error(), "WEIR_CALLBACK_ALLOW") {
			t.Errorf("%s: %v without the remedy", row.url, err)
		}
		if err != nil && strings.Contains(err.Error(), "secret") && !strings.Contains(err.Error(), "carry a secret") {
			t.Errorf("%s: %v", row.url, err)
		}
	}
}

func TestCallbackToItselfNamesAFunction(t *testing.T) {
	c := aSender(t, CallbackConfig{Own: []string{"weir"}, Namespace: "apps"})
	for url, want := range map[string]receiver{
		"http://weir/function/f":                    {ref: function.Ref{Name: "f", Namespace: "apps"}, path: "/"},
		"http://weir/function/f/":                   {ref: function.Ref{Name: "f", Namespace: "apps"}, path: "/"},
		"http://weir/function/f?x=%2F":              {ref: function.Ref{Name: "f", Namespace: "apps"}, path: "/?x=%2F"},
		"http://weir:1/async-function/f.o/a%2Fb//?": {ref: function.Ref{Name: "f", Namespace: "o"}, path: "/a%2Fb//?", async: true},
	} {
		got, err := c.parse(url)
		if err != nil {
			t.Errorf("%s: %v", url, err)
		} else if !got.own || got.ref != want.ref || got.path != want.path || got.async != want.async || got.key != want.ref.String() {
			t.Errorf("%s is %+v, expected %+v", url, got, want)
		}
	}
}

func TestCallbackSettingsSayWhatIsWrong(t *testing.T) {
	for _, cfg := range []CallbackConfig{
		{Allow: []string{"10.0.0.0/33"}}, {Allow: []string{"http://x/"}}, {Allow: []string{""}}, {Allow: []string{"*"}}, {Allow: []string{"fe80::1%eth0"}},
		{Own: []string{"http://weir"}}, {Own: []string{"weir:x"}}, {Own: []string{"weir:0"}}, {Own: []string{""}}, {Own: []string{"127.1"}},
	} {
		_, err := newCallbacks(cfg, callbackHost{})
		if err == nil || !strings.Contains(err.Error(), "expected") {
			t.Errorf("%+v: %v", cfg, err)
		}
	}
}

// A host whose addresses cannot be read is no reason to dial them.
func TestNoAddressIsDialledUnlooked(t *testing.T) {
	c := aSender(t, CallbackConfig{})
	c.guard.local = func() ([]net.Addr, error) { return nil, errors.New("no netlink") }
	if err := c.guard.check(netip.MustParseAddr("10.1.2.3")); err == nil || errors.Is(err, errRefused) {
		t.Errorf("%v", err)
	}
}

// A proxy of the environment would dial in weir's place, and look at nothing.
func TestCallbackUsesNoProxy(t *testing.T) {
	if aSender(t, CallbackConfig{}).transport().Proxy != nil {
		t.Error("callbacks go through a proxy")
	}
}

func FuzzCheckCallback(f *testing.F) {
	for _, url := range []string{"http://a.example/", "https://[::1]:1/x", "http://weir/function/f?x", "http://127.1/", "http://u:p@h/", "http://[fe80::1%25a]/", "http://h:00080/"} {
		f.Add(url)
	}
	c := aSender(f, CallbackConfig{Own: []string{"weir"}, Namespace: "fn"})
	f.Fuzz(func(t *testing.T, url string) {
		r, err := c.parse(url)
		if err != nil {
			if len(err.Error()) > 1000 {
				t.Errorf("an error of %d bytes", len(err.Error()))
			}
			return
		}
		if r.url.User != nil || r.url.Hostname() == "" || r.url.Scheme != "http" && r.url.Scheme != "https" {
			t.Errorf("%q is taken as %+v", url, r.url)
		}
		again, err := c.parse(r.url.String())
		if err != nil || again.key != r.key || again.own != r.own || again.path != r.path {
			t.Errorf("%q is %+v, but %q is %+v, %v", url, r, r.url, again, err)
		}
		host, _, err := net.SplitHostPort(r.key)
		if !r.own && (err != nil || host != canonicalHost(host)) {
			t.Errorf("%q has key %q", url, r.key)
		}
	})
}
