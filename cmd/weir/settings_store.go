package main

import (
	"math"
	"net"
	"net/netip"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/weir-run/weir/queue"
)

// stored says whether there is anything that keeps asynchronous calls.
func (s *settings) stored() bool { return s.embedded() || s.NatsURL.val != "" }

// embedded says that this weir keeps them itself.
func (s *settings) embedded() bool { return s.DataDir.val != "" }

// maxStore is how many bytes of calls may be queued.
func (s *settings) maxStore() int64 {
	switch {
	case s.AsyncMaxStore.text != "":
		return s.AsyncMaxStore.val
	case s.embedded():
		return 10 << 30
	}
	return 4 << 30
}

// The most that may be asked for: what a queued call is bounded by in NATS, and
// what would not be a bound any more.
const (
	maxAsyncBody = 32 << 20
	maxResult    = 8 << 20
	leastStore   = 64 << 20
)

// validateStore finds what does not go together about asynchronous calls, and
// reads the password's file.
func (s *settings) validateStore(fault func(format string, args ...any)) {
	external := s.NatsURL.val != ""
	if s.embedded() && external {
		fault("WEIR_DATA_DIR and WEIR_NATS_URL are both set: expected one of them, for calls are kept in one place")
	}
	for _, f := range []struct {
		name string
		set  bool
	}{
		{"WEIR_NATS_CREDENTIALS", s.NatsCredentials.val != ""}, {"WEIR_NATS_USER", s.NatsUser.val != ""},
		{"WEIR_NATS_PASSWORD", s.NatsPassword.val != ""}, {"WEIR_NATS_PASSWORD_FILE", s.NatsPasswordFile.val != ""},
		{"WEIR_NATS_CA", s.NatsCa.val != ""}, {"WEIR_NATS_CERT", s.NatsCert.val != ""}, {"WEIR_NATS_KEY", s.NatsKey.val != ""},
		{"WEIR_NATS_REPLICAS", s.NatsReplicas.val > 1},
	} {
		if f.set && !external {
			fault("%s is set: it is for WEIR_NATS_URL, which is not", f.name)
		}
	}
	if external && s.NatsSync.val == "always" {
		fault("WEIR_NATS_SYNC=%q: with WEIR_NATS_URL it is the servers' own setting (jetstream { sync_interval: always })", s.NatsSync.val)
	}
	if s.NatsListen.val != "" && !s.embedded() {
		fault("WEIR_NATS_LISTEN=%q: it is for the server in WEIR_DATA_DIR, which is not set", s.NatsListen.val)
	}
	if host, _, err := net.SplitHostPort(s.NatsListen.val); err == nil && s.NatsListen.want == "" && !loopback(host) {
		fault("WEIR_NATS_LISTEN=%q: expected an address of loopback such as 127.0.0.1:4222, for the server asks for no password", s.NatsListen.val)
	}
	for one := range strings.SplitSeq(s.NatsURL.val, ",") {
		u, err := url.Parse(strings.TrimSpace(one))
		if external && (err != nil || u.Host == "" || !strings.Contains(" nats tls ws wss ", " "+u.Scheme+" ")) {
			fault("WEIR_NATS_URL: expected nats://host:port, or several with commas")
			break
		}
	}
	if (s.NatsCert.val == "") != (s.NatsKey.val == "") {
		fault("WEIR_NATS_CERT and WEIR_NATS_KEY: expected both or none")
	}
	switch s.NatsReplicas.val {
	case 1, 3, 5:
	default:
		fault("WEIR_NATS_REPLICAS=%q: expected 1, 3 or 5", s.NatsReplicas.text)
	}
	if strings.ContainsAny(s.NatsPrefix.val, ". \t*>/\\") {
		fault("WEIR_NATS_PREFIX=%q: expected a word without dots, spaces, * and >", s.NatsPrefix.val)
	}
	s.validateBounds(fault)
	s.validateCallbacks(fault)
	s.validateFiles(fault)
	if s.NatsPasswordFile.val == "" {
		return
	}
	if s.NatsPassword.val != "" {
		fault("WEIR_NATS_PASSWORD and WEIR_NATS_PASSWORD_FILE are both set: expected one of them")
		return
	}
	password, err := readSecret(s.NatsPasswordFile.val)
	if err != nil {
		fault("WEIR_NATS_PASSWORD_FILE=%q: %w", s.NatsPasswordFile.val, err)
	}
	s.NatsPassword.val = password
}

// validateCallbacks finds hosts and networks that are none. Else it would be
// found when there is a queue, which is long after the start where the servers
// of WEIR_NATS_URL are away then.
func (s *settings) validateCallbacks(fault func(format string, args ...any)) {
	if err := queue.CheckAllow(list(s.CallbackAllow.val)); err != nil {
		fault("WEIR_CALLBACK_ALLOW=%q: %w", s.CallbackAllow.val, err)
	}
	if err := queue.CheckOwn(list(s.Hosts.val)); err != nil {
		fault("WEIR_HOSTS=%q: %w", s.Hosts.val, err)
	}
}

// validateFiles finds those for WEIR_NATS_URL that cannot be read.
func (s *settings) validateFiles(fault func(format string, args ...any)) {
	for _, f := range []struct{ name, path string }{
		{"WEIR_NATS_CREDENTIALS", s.NatsCredentials.val}, {"WEIR_NATS_CA", s.NatsCa.val},
		{"WEIR_NATS_CERT", s.NatsCert.val}, {"WEIR_NATS_KEY", s.NatsKey.val},
	} {
		if f.path == "" {
			continue
		}
		if _, err := os.ReadFile(f.path); err != nil {
			fault("%s=%q: %w", f.name, f.path, err)
		}
	}
}

// validateBounds finds bounds of asynchronous calls that are none, or that
// nothing fits into.
func (s *settings) validateBounds(fault func(format string, args ...any)) {
	for _, b := range []struct {
		name        string
		value       bytes
		least, most int64
	}{
		{"WEIR_ASYNC_MAX_BODY", s.AsyncMaxBody, 1, maxAsyncBody},
		{"WEIR_ASYNC_MAX_STORE", s.AsyncMaxStore, leastStore, math.MaxInt64},
		{"WEIR_ASYNC_RESULT_SIZE", s.AsyncResultSize, 0, maxResult},
		{"WEIR_CALLBACK_MAX_BODY", s.CallbackMaxBody, 0, maxResult},
	} {
		if b.value.text != "" && b.value.want == "" && (b.value.val < b.least || b.value.val > b.most) {
			fault("%s=%q: expected %d to %d bytes", b.name, b.value.text, b.least, b.most)
		}
	}
	for _, d := range []struct {
		name  string
		value duration
		least time.Duration
	}{
		{"WEIR_ASYNC_MAX_AGE", s.AsyncMaxAge, time.Second},
		{"WEIR_ASYNC_MAX_TIME", s.AsyncMaxTime, time.Second},
		{"WEIR_ASYNC_WINDOW", s.AsyncWindow, time.Second},
		{"WEIR_ASYNC_RESULT_TIME", s.AsyncResultTime, time.Second},
		{"WEIR_CALLBACK_TIMEOUT", s.CallbackTimeout, time.Millisecond},
	} {
		if d.value.want == "" && d.value.val < d.least {
			fault("%s=%q: expected at least %s", d.name, d.value.text, d.least)
		}
	}
	for _, n := range []struct {
		name  string
		value number
	}{{"WEIR_ASYNC_MAX_CALLS", s.AsyncMaxCalls}, {"WEIR_CALLBACK_ATTEMPTS", s.CallbackAttempts}} {
		if n.value.want == "" && n.value.val < 1 {
			fault("%s=%q: expected at least 1", n.name, n.value.text)
		}
	}
}

func loopback(host string) bool {
	ip, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && ip.IsLoopback()
}
