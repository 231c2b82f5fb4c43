package watchdog

import (
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/weir-run/weir/limiter/guard"
)

// fromEnv is FromEnv, and the proof that it leaves the environment of this
// process byte for byte and in the same order. The tests that use it are not
// parallel: two would see each other's.
func fromEnv(t testing.TB, program Mode, environ ...string) (Config, error) {
	t.Helper()
	before := os.Environ()
	cfg, err := FromEnv(environ, program)
	if after := os.Environ(); !slices.Equal(before, after) {
		t.Errorf("environment of the process changed:\n%q\n%q", before, after)
	}
	return cfg, err
}

func mustConfig(t testing.TB, program Mode, environ ...string) Config {
	t.Helper()
	cfg, err := fromEnv(t, program, environ...)
	if err != nil {
		t.Fatalf("%q: %v", environ, err)
	}
	return cfg
}

func mark(t testing.TB, parse func(string) (guard.Mark, error)) func(string) guard.Mark {
	return func(text string) guard.Mark {
		m, err := parse(text)
		if err != nil {
			t.Fatal(err)
		}
		return m
	}
}

func TestDefaults(t *testing.T) {
	use, free := mark(t, guard.ParseUse), mark(t, guard.ParseFree)
	streaming := Config{
		Mode: ModeStreaming, Command: []string{"cat"},
		Port: 8080, MetricsPort: 8081, StaticPath: "/home/app/public",
		ReadTimeout: 30 * time.Second, WriteTimeout: 30 * time.Second, ExecTimeout: 30 * time.Second,
		HealthcheckInterval: 5 * time.Second, ShutdownTimeout: 30 * time.Second, KillGrace: 5 * time.Second,
		ContentType: "application/octet-stream", CGIHeaders: true,
		QueueTimeout: 30 * time.Second, MaxMemory: use("90%"), MaxFds: use("90%"), MaxPids: use("90%"),
		MinDisk: free("1%"), DiskPath: "/tmp",
		PrefixLogs: true, LogBufferSize: 65536, LogFormat: "text", CombineOutput: true, LockPath: "/tmp/.lock",
	}
	classic := streaming
	classic.Mode, classic.ExecTimeout, classic.QueueTimeout, classic.ContentType = ModeClassic, 0, 0, ""
	static := streaming
	static.Mode, static.Command = ModeStatic, nil
	inproc := static
	inproc.Mode = ModeInproc

	for _, c := range []struct {
		name    string
		program Mode
		environ []string
		want    Config
	}{
		{"fwatchdog", ModeStreaming, []string{"fprocess=cat"}, streaming},
		{"fwatchdog-classic", ModeClassic, []string{"fprocess=cat"}, classic},
		{"the mode decides, not the program", ModeStreaming, []string{"fprocess=cat", "mode=classic"}, classic},
		{"and the other way", ModeClassic, []string{"fprocess=cat", "WATCHDOG_MODE=streaming"}, streaming},
		{"classic images may have a mode of their own", ModeClassic, []string{"fprocess=cat", "mode=production"}, classic},
		{"static runs nothing", ModeStreaming, []string{"mode=static", "fprocess=cat"}, static},
		{"library", ModeInproc, []string{"fprocess=cat", "mode=inproc"}, inproc},
		{"library, no mode", ModeInproc, nil, inproc},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := mustConfig(t, c.program, c.environ...)
			c.want.Environ = c.environ
			if len(got.Environ) == 0 {
				got.Environ, c.want.Environ = nil, nil
			}
			if !reflect.DeepEqual(got, c.want) {
				t.Errorf("got  %+v\nwant %+v", got, c.want)
			}
		})
	}
	for _, m := range []Mode{ModeStreaming, ModeClassic, ModeStatic, ModeInproc} {
		got := Defaults(m)
		want := map[Mode]Config{ModeStreaming: streaming, ModeClassic: classic, ModeStatic: static, ModeInproc: inproc}[m]
		want.Command = nil
		if !reflect.DeepEqual(got, want) {
			t.Errorf("Defaults(%s)\ngot  %+v\nwant %+v", m, got, want)
		}
	}
}

// TestEverySetting sets each variable in both spellings, and sees the
// capitals win.
func TestEverySetting(t *testing.T) {
	use, free := mark(t, guard.ParseUse), mark(t, guard.ParseFree)
	get := func(c Config, field string) any { return reflect.ValueOf(c).FieldByName(field).Interface() }
	for _, c := range []struct {
		name, field  string
		value, other string // two that parse and differ from each other
		want, wantO  any
		with         []string
	}{
		{"fprocess", "Command", `a  "b c" 'd'\ e`, "z", []string{"a", "b c", "d e"}, []string{"z"}, nil},
		{"function_process", "Command", "a b", "z", []string{"a", "b"}, []string{"z"}, nil},
		{"mode", "Mode", "serializing", "classic", ModeSerializing, ModeClassic, nil},
		{"port", "Port", "9000", "0", 9000, 0, nil},
		{"metrics_port", "MetricsPort", "9000", "65535", 9000, 65535, nil},
		{"listen_address", "ListenAddress", "127.0.0.1", "::1", "127.0.0.1", "::1", nil},
		{"upstream_url", "UpstreamURL", "http://127.0.0.1:5000/a/", "unix:///tmp/x.sock", "http://127.0.0.1:5000/a/", "unix:///tmp/x.sock", []string{"mode=http"}},
		{"http_upstream_url", "UpstreamURL", "http://[::1]:3000", "http://app", "http://[::1]:3000", "http://app", []string{"mode=http"}},
		{"static_path", "StaticPath", "/a", "b", "/a", "b", nil},
		{"read_timeout", "ReadTimeout", "0", "1m30s", time.Duration(0), 90 * time.Second, nil},
		{"write_timeout", "WriteTimeout", "007", "1ns", 7 * time.Second, time.Nanosecond, nil},
		{"exec_timeout", "ExecTimeout", "60", "1.5h", time.Minute, 90 * time.Minute, nil},
		{"healthcheck_interval", "HealthcheckInterval", "0", "60s", time.Duration(0), time.Minute, nil},
		{"shutdown_timeout", "ShutdownTimeout", "0s", "90", time.Duration(0), 90 * time.Second, nil},
		{"kill_grace", "KillGrace", "0", "100ms", time.Duration(0), 100 * time.Millisecond, nil},
		{"max_inflight", "MaxInflight", "64", "-1", 64, -1, nil},
		{"max_inflight", "MaxInflight", "auto:7", "auto", 7, 1000, nil},
		{"max_inflight", "AutoInflight", "auto:1", "8", true, false, nil},
		{"max_queue", "MaxQueue", "5", "0", 5, 0, []string{"max_inflight=1"}},
		{"queue_timeout", "QueueTimeout", "0", "2m", time.Duration(0), 2 * time.Minute, nil},
		{"ready_queue", "ReadyQueue", "8", "0", 8, 0, []string{"max_inflight=auto", "max_queue=8"}},
		{"max_memory", "MaxMemory", "87.5%", "200Mi", use("87.5%"), use("200Mi"), nil},
		{"max_fds", "MaxFds", "900", "off", use("900"), guard.Mark{}, nil},
		{"max_pids", "MaxPids", "100%", "1", use("100%"), use("1"), nil},
		{"min_disk", "MinDisk", "256Mi", "5%", free("256Mi"), free("5%"), nil},
		{"disk_path", "DiskPath", "/data", "x", "/data", "x", nil},
		{"stuck_timeout", "StuckTimeout", "5m", "off", 5 * time.Minute, time.Duration(0), nil},
		{"log_level", "LogDebug", "debug", "info", true, false, nil},
		{"max_body", "MaxBody", "512Mi", "1G", int64(512 << 20), int64(1e9), nil},
		{"http_buffer_req_body", "BufferHTTP", "true", "false", true, false, nil},
		{"buffer_http", "BufferHTTP", "1", "0", true, false, nil},
		{"content_type", "ContentType", "text/plain; charset=utf-8", "x", "text/plain; charset=utf-8", "x", nil},
		{"cgi_headers", "CGIHeaders", "false", "true", false, true, nil},
		{"suppress_lock", "SuppressLock", "T", "F", true, false, nil},
		{"ready_path", "ReadyPath", "/healthz?deep=1", "/", "/healthz?deep=1", "/", nil},
		{"prefix_logs", "PrefixLogs", "0", "1", false, true, nil},
		{"log_buffer_size", "LogBufferSize", "-1", "1", -1, 1, nil},
		{"log_callid", "LogCallID", "true", "false", true, false, nil},
		{"log_call_id", "LogCallID", "True", "False", true, false, nil},
		{"log_format", "LogFormat", "json", "text", "json", "text", nil},
		{"jwt_auth", "JWTAuth", "true", "false", true, false, []string{"OPENFAAS_NAME=f", "OPENFAAS_NAMESPACE=n"}},
		{"jwt_auth_debug", "JWTAuthDebug", "true", "false", true, false, nil},
		{"jwt_auth_local", "JWTAuthLocal", "true", "false", true, false, nil},
		{"combine_output", "CombineOutput", "false", "true", false, true, nil},
		{"write_debug", "WriteDebug", "true", "false", true, false, nil},
		{"debug_headers", "DebugHeaders", "true", "false", true, false, nil},
		{"marshal_request", "MarshalRequest", "true", "false", true, false, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			base := append([]string{"WATCHDOG_FPROCESS=cat"}, c.with...)
			if strings.HasSuffix(c.name, "process") {
				base = c.with
			}
			lower, capital := c.name+"=", "WATCHDOG_"+strings.ToUpper(c.name)+"="
			for _, e := range []struct {
				name    string
				environ []string
				want    any
			}{
				{"lower case", []string{lower + c.value}, c.want},
				{"lower case, other", []string{lower + c.other}, c.wantO},
				{"capitals", []string{capital + c.value}, c.want},
				{"capitals win", []string{capital + c.value, lower + c.other}, c.want},
				{"in any order", []string{lower + c.value, capital + c.other}, c.wantO},
				{"empty capitals are unset", []string{lower + c.value, capital}, c.want},
				{"the last of a name counts", []string{lower + c.other, lower + c.value}, c.want},
				{"names have a case", []string{strings.ToUpper(lower) + c.other, lower + c.value}, c.want},
			} {
				got := mustConfig(t, ModeStreaming, append(slices.Clone(base), e.environ...)...)
				if !reflect.DeepEqual(get(got, c.field), e.want) {
					t.Errorf("%s: %q: %s is %#v, want %#v", e.name, e.environ, c.field, get(got, c.field), e.want)
				}
			}
			switch c.field {
			case "Command", "UpstreamURL", "Mode", "JWTAuth", "ReadyQueue":
				return // empty is not a valid Config, or changes what else is
			}
			got := mustConfig(t, ModeStreaming, append(slices.Clone(base), lower, capital, strings.ToUpper(lower)+c.value)...)
			if def := get(Defaults(ModeStreaming), c.field); !reflect.DeepEqual(get(got, c.field), def) {
				t.Errorf("empty: %s is %#v, want the default %#v", c.field, get(got, c.field), def)
			}
		})
	}
}

// TestTwoNames: OpenFaaS's order where it has two lower-case names for one
// thing, and either of two bools.
func TestTwoNames(t *testing.T) {
	c := mustConfig(t, ModeStreaming, "fprocess=a", "function_process=b", "mode=http", "upstream_url=http://a", "http_upstream_url=http://b")
	if c.Command[0] != "b" || c.UpstreamURL != "http://b" {
		t.Errorf("command %q, upstream %q", c.Command, c.UpstreamURL)
	}
	c = mustConfig(t, ModeStreaming, "WATCHDOG_FPROCESS=a", "function_process=b")
	if c.Command[0] != "a" {
		t.Errorf("WATCHDOG_FPROCESS does not win: %q", c.Command)
	}
	for _, e := range []struct {
		environ []string
		want    bool
	}{
		{[]string{"buffer_http=true", "http_buffer_req_body=false"}, true},
		{[]string{"buffer_http=false", "http_buffer_req_body=true"}, true},
		{[]string{"buffer_http=false", "http_buffer_req_body=false"}, false},
		{[]string{"buffer_http=true", "WATCHDOG_HTTP_BUFFER_REQ_BODY=false"}, false},
	} {
		if c := mustConfig(t, ModeStreaming, append(e.environ, "fprocess=a")...); c.BufferHTTP != e.want {
			t.Errorf("%q: %v", e.environ, c.BufferHTTP)
		}
	}
	if _, err := fromEnv(t, ModeStreaming, "fprocess=a", "log_callid=false", "log_call_id=maybe"); err == nil {
		t.Error("a bool that is none went through beside a false one")
	}
}

func TestDerivedDefaults(t *testing.T) {
	for _, e := range []struct {
		environ            []string
		interval, shutdown time.Duration
	}{
		{[]string{"write_timeout=2s"}, 2 * time.Second, 2 * time.Second},
		{[]string{"write_timeout=2m"}, 5 * time.Second, 2 * time.Minute},
		{[]string{"write_timeout=2m", "healthcheck_interval=1m", "shutdown_timeout=3s"}, time.Minute, 3 * time.Second},
		{[]string{"healthcheck_interval=0", "shutdown_timeout=0"}, 0, 0},
	} {
		c := mustConfig(t, ModeStreaming, append(e.environ, "fprocess=a")...)
		if c.HealthcheckInterval != e.interval || c.ShutdownTimeout != e.shutdown {
			t.Errorf("%q: %s and %s", e.environ, c.HealthcheckInterval, c.ShutdownTimeout)
		}
	}
}

func TestDerivedDefaultsOfTheQueue(t *testing.T) {
	for _, e := range []struct {
		environ []string
		timeout time.Duration
		ready   int
		disk    string
	}{
		{nil, 30 * time.Second, 0, "/tmp"},
		{[]string{"exec_timeout=2s", "max_queue=4", "TMPDIR=/run"}, 2 * time.Second, 2, "/run"},
		{[]string{"exec_timeout=0", "max_queue=1"}, 0, 0, "/tmp"},
		{[]string{"mode=classic", "max_queue=9"}, 0, 4, "/tmp"},
		{[]string{"queue_timeout=0", "max_queue=4", "ready_queue=0", "TMPDIR=/run", "disk_path=/"}, 0, 0, "/"},
		{[]string{"queue_timeout=90", "max_queue=4", "ready_queue=4"}, 90 * time.Second, 4, "/tmp"},
	} {
		c := mustConfig(t, ModeStreaming, append(e.environ, "fprocess=a", "max_inflight=1")...)
		if c.QueueTimeout != e.timeout || c.ReadyQueue != e.ready || c.DiskPath != e.disk {
			t.Errorf("%q: %s, %d, %s", e.environ, c.QueueTimeout, c.ReadyQueue, c.DiskPath)
		}
	}
}

// TestNotOurs: an image's own variables, Kubernetes' service links, and the
// environment of this process are not settings.
func TestNotOurs(t *testing.T) {
	for _, name := range []string{"WATCHDOG_PORT", "WATCHDOG_MODE", "WATCHDOG_MAX_INFLIGHT"} {
		t.Setenv(name, "junk of the process")
	}
	t.Setenv("PORT", "1")
	t.Setenv("port", "2")
	t.Setenv("WATCHDOG_METRICS_PORT", "")
	c := mustConfig(t, ModeStreaming, "fprocess=a",
		"PORT=3000", "MODE=production", "MAX_INFLIGHT=7", "EXEC_TIMEOUT=junk", "Port=1", "CONTENT_TYPE=text/html",
		"WATCHDOG_PORT=tcp://10.0.0.1:80", "WATCHDOG_METRICS_PORT=udp://10.0.0.1:81",
		"WATCHDOG_PORT_80_TCP=tcp://10.0.0.1:80", "WATCHDOG_SERVICE_PORT=80",
		"max_requests=nonsense", "unheard_of=1", "WATCHDOG_UNHEARD_OF=1", "no equals sign", "=odd", "")
	if c.Port != 8080 || c.MetricsPort != 8081 || c.Mode != ModeStreaming || c.MaxInflight != 0 ||
		c.ExecTimeout != 30*time.Second || c.ContentType != "application/octet-stream" {
		t.Errorf("got %+v", c)
	}
	c = mustConfig(t, ModeStreaming, "fprocess=a", "WATCHDOG_PORT=tcp://10.0.0.1:80", "port=9000")
	if c.Port != 9000 {
		t.Errorf("port %d beside a service link", c.Port)
	}
	if _, err := fromEnv(t, ModeStreaming, "fprocess=a", "port=tcp://10.0.0.1:80"); err == nil {
		t.Error("a lower-case port that is a service link is no fault")
	}
}

// TestUnprefixed: envconfig would take a bare PORT or MODE for a setting whose
// field has an envconfig tag.
func TestUnprefixed(t *testing.T) {
	environ := []string{"fprocess=cat"}
	for i := range settings {
		for _, name := range settings[i].names {
			name = strings.ToUpper(name)
			t.Setenv(name, "/junk") // whatever its type: a fault or a change
			environ = append(environ, name+"=/junk")
		}
	}
	got := mustConfig(t, ModeStreaming, environ...)
	want := Defaults(ModeStreaming)
	want.Command, want.Environ = []string{"cat"}, environ
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
}

func TestHandlerEnvironment(t *testing.T) {
	environ := []string{"port=9000", "WATCHDOG_PORT=9001", "B=1", "A=2", "A=3", "junk", "fprocess=a"}
	c := mustConfig(t, ModeStreaming, environ...)
	if !slices.Equal(c.Environ, environ) {
		t.Errorf("handler's environment %q", c.Environ)
	}
}

func TestNamespace(t *testing.T) {
	file := filepath.Join(t.TempDir(), "namespace")
	if err := os.WriteFile(file, []byte("from-file\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		env  map[string]string
		file string
		want string
	}{
		{map[string]string{"OPENFAAS_NAMESPACE": "ns"}, file, "ns"},
		{map[string]string{"OPENFAAS_NAMESPACE": ""}, file, "from-file"},
		{nil, file + ".none", ""},
	} {
		if got := namespace(c.env, c.file); got != c.want {
			t.Errorf("%v: %q", c.env, got)
		}
	}
	c := mustConfig(t, ModeStreaming, "fprocess=a", "jwt_auth=1", "OPENFAAS_NAME=fn", "OPENFAAS_NAMESPACE=ns")
	if c.FunctionName != "fn" || c.FunctionNamespace != "ns" {
		t.Errorf("%q %q", c.FunctionName, c.FunctionNamespace)
	}
}

// faultsOf takes a joined error apart.
func faultsOf(t testing.TB, err error) []*Fault {
	t.Helper()
	var joined interface{ Unwrap() []error }
	if !errors.As(err, &joined) {
		t.Fatalf("%v (%T) is not joined", err, err)
	}
	var all []*Fault
	for _, e := range joined.Unwrap() {
		var f *Fault
		if !errors.As(e, &f) {
			t.Fatalf("%v (%T) is no Fault", e, e)
		}
		all = append(all, f)
	}
	return all
}
