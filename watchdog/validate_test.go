package watchdog

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/weir-run/weir/limiter/guard"
)

// TestFaults: each bad value alone is exactly one fault, which names the
// variable as written, its value, and what was expected.
func TestFaults(t *testing.T) {
	const (
		aDuration = "a duration such as 1m30s, not negative"
		aNumber   = "a whole number"
		aBool     = "true or false"
		aPort     = "a port from 1 to 65535"
		anURL     = "http://host:port, with or without a base path, or unix:///path.sock"
		aSize     = "a number of bytes such as"
	)
	for _, c := range []struct{ variable, value, want string }{
		{"mode", "htp", "streaming, serializing, http, static or classic"},
		{"mode", "HTTP", "streaming, serializing, http, static or classic"},
		{"WATCHDOG_MODE", "afterburn", "streaming, serializing, http, static or classic"},
		{"mode", "inproc", "inproc is for Go programs"},
		{"fprocess", `sh -c 'oops`, "a quote is not closed"},
		{"fprocess", `oops\`, "backslash"},
		{"function_process", "  ", "a command that names a program"},
		{"fprocess", `"" x`, "a command that names a program"},
		{"port", "http", aNumber},
		{"port", "80 ", aNumber},
		{"port", "-1", aPort},
		{"port", "65536", aPort},
		{"WATCHDOG_METRICS_PORT", "99999999999999999999", aNumber},
		{"metrics_port", "8080", "another port than that of the function"},
		{"listen_address", "localhost", "an IP address"},
		{"read_timeout", "-1", aDuration},
		{"read_timeout", "-1s", aDuration},
		{"write_timeout", "0", "a duration over 0"},
		{"write_timeout", "0s", "a duration over 0"},
		{"exec_timeout", "ten", aDuration},
		{"exec_timeout", "10 s", aDuration},
		{"exec_timeout", "9223372036854775807", aDuration},
		{"exec_timeout", "9223372036", aDuration},
		{"exec_timeout", "2562047h", aDuration},
		{"exec_timeout", "99999999999999999999", aDuration},
		{"healthcheck_interval", "1e3", aDuration},
		{"WATCHDOG_SHUTDOWN_TIMEOUT", "forever", aDuration},
		{"kill_grace", "-5ns", aDuration},
		{"max_inflight", "many", aNumber},
		{"max_inflight", "1.5", aNumber},
		{"max_inflight", "2147483648", aNumber},
		{"max_inflight", "auto:0", "auto:64 with a number over 0"},
		{"max_inflight", "auto:x", "auto:64 with a number over 0"},
		{"max_inflight", "auto:-1", "auto:64 with a number over 0"},
		{"max_inflight", "auto:", "auto:64 with a number over 0"},
		{"max_inflight", "auto:2147483648", "auto:64 with a number over 0"},
		{"max_inflight", "Auto", "auto:64 with a number over 0"},
		{"max_inflight", "automatic", aNumber},
		{"max_queue", "4", "max_inflight beside it"},
		{"WATCHDOG_MAX_QUEUE", "-4", "not negative"},
		{"max_queue", "some", aNumber},
		{"ready_queue", "1", "a number from 0 to max_queue"},
		{"ready_queue", "-1", "a number from 0 to max_queue"},
		{"ready_queue", "half", aNumber},
		{"queue_timeout", "-1s", aDuration},
		{"queue_timeout", "off", aDuration},
		{"max_memory", "120%", "a share such as 90%, a size such as 200Mi, or off"},
		{"max_memory", "0", "a share such as 90%"},
		{"max_fds", "-1", "a share such as 90%"},
		{"WATCHDOG_MAX_PIDS", "0%", "a share such as 90%"},
		{"min_disk", "-1", "a share such as 1%"},
		{"min_disk", "101%", "a share such as 1%"},
		{"stuck_timeout", "never", "or off"},
		{"stuck_timeout", "-1", "or off"},
		{"log_level", "trace", "info or debug"},
		{"max_body", "-1", aSize},
		{"max_body", "1.5Gi", aSize},
		{"max_body", "1GiB", aSize},
		{"max_body", "Mi", aSize},
		{"max_body", "+1", aSize},
		{"max_body", "9223372036854775807Ki", aSize},
		{"max_body", "4611686018427387904", aSize},
		{"buffer_http", "yes", aBool},
		{"WATCHDOG_LOG_CALL_ID", "on", aBool},
		{"cgi_headers", "no", aBool},
		{"content_type", "a\r\nb", "without control characters"},
		{"ready_path", "healthz", "a path that begins with /"},
		{"ready_path", "http://x/y", "a path that begins with /"},
		{"ready_path", "/a b\x01", "a path that begins with /"},
		{"ready_path", "/%zz", "a path that begins with /"},
		{"log_buffer_size", "0", "-1 for no bound"},
		{"log_buffer_size", "64k", aNumber},
		{"log_format", "logfmt", "text or json"},
		{"jwt_auth", "2", aBool},
		{"upstream_url", "127.0.0.1:5000", anURL},
		{"upstream_url", "localhost:5000", anURL},
		{"upstream_url", "//x", anURL},
		{"upstream_url", "http://", anURL},
		{"upstream_url", "http://x:", anURL},
		{"upstream_url", "http://x:0", anURL},
		{"upstream_url", "http://x:65536", anURL},
		{"upstream_url", "http://u:p@x", anURL},
		{"upstream_url", "http://x?q", anURL},
		{"upstream_url", "http://x#f", anURL},
		{"upstream_url", "http:x", anURL},
		{"upstream_url", "ftp://x", anURL},
		{"upstream_url", "unix:x.sock", anURL},
		{"upstream_url", "unix://x.sock", anURL},
		{"upstream_url", "unix:///", anURL},
		{"upstream_url", "unix:///" + strings.Repeat("x", 107), "at most 107 bytes"},
		{"http_upstream_url", "https://x", "no TLS"},
		{"http_upstream_url", "http://127.0.0.1:8080", "it would call itself"},
		{"WATCHDOG_HTTP_UPSTREAM_URL", "http://localhost:8080/x", "it would call itself"},
		{"WATCHDOG_UPSTREAM_URL", "http://[::1]:8080", "it would call itself"},
	} {
		t.Run(c.variable+"="+c.value, func(t *testing.T) {
			environ := []string{c.variable + "=" + c.value}
			if !strings.HasSuffix(c.variable, "process") {
				environ = append(environ, "fprocess=cat")
			}
			if strings.HasSuffix(strings.ToLower(c.variable), "upstream_url") {
				environ = append(environ, "mode=http")
			}
			_, err := fromEnv(t, ModeStreaming, environ...)
			if err == nil {
				t.Fatal("no fault")
			}
			all := faultsOf(t, err)
			if len(all) != 1 {
				t.Fatalf("%d faults:\n%v", len(all), err)
			}
			if f := all[0]; f.Name != c.variable || f.Value != c.value || !strings.Contains(f.Want, c.want) {
				t.Errorf("got %q %q, expected %q", f.Name, f.Value, f.Want)
			}
		})
	}
}

func TestAccepted(t *testing.T) {
	for _, c := range []struct{ variable, value string }{
		{"upstream_url", "http://127.0.0.1:8081"}, // metrics_port is the watchdog's, but may be moved
		{"upstream_url", "http://example.com:8080/base/"},
		{"upstream_url", "HTTP://[::1]:5000"},
		{"upstream_url", "unix:///" + strings.Repeat("x", 106)},
		{"upstream_url", "unix:///run/a%20b.sock"},
		{"max_body", "4611686018427387903"},
		{"exec_timeout", "1281023h"},
		{"exec_timeout", "4611686018"},
		{"max_inflight", "2147483647"},
		{"max_inflight", "-9"},
		{"port", "65535"},
	} {
		if _, err := fromEnv(t, ModeStreaming, c.variable+"="+c.value, "fprocess=cat", "mode=http", "http_upstream_url=", "WATCHDOG_UPSTREAM_URL="+map[bool]string{true: "", false: "http://x"}[c.variable == "upstream_url"]); err != nil {
			t.Errorf("%s=%s: %v", c.variable, c.value, err)
		}
	}
}

// TestQueueFaults: what does not go together, one fault for each cause.
func TestQueueFaults(t *testing.T) {
	for _, c := range []struct{ environ, want string }{
		{"max_queue=4 max_inflight=0", `max_queue="4": expected max_inflight beside it, because without a limit nothing waits`},
		{"max_queue=4 max_inflight=-1 ready_queue=2", `max_queue="4": expected max_inflight beside it, because without a limit nothing waits`},
		{"max_queue=4 max_inflight=1 ready_queue=5", `ready_queue="5": expected a number from 0 to max_queue`},
		{"max_queue=4 max_inflight=many ready_queue=2", `max_inflight="many": expected a whole number of at most 2147483647, auto, or auto:64 with a number over 0`},
		{"max_queue=many max_inflight=1 ready_queue=2", `max_queue="many": expected a whole number of at most 2147483647`},
		{"max_queue=-1 max_inflight=1 ready_queue=2", `max_queue="-1": expected a number that is not negative`},
		{"max_queue=4 max_inflight=1 ready_queue=two", `ready_queue="two": expected a whole number of at most 2147483647`},
	} {
		_, err := fromEnv(t, ModeStreaming, append(strings.Fields(c.environ), "fprocess=cat")...)
		if err == nil || err.Error() != c.want {
			t.Errorf("%s:\ngot  %v\nwant %s", c.environ, err, c.want)
		}
	}
}

// TestMissing: what a mode needs and has not.
func TestMissing(t *testing.T) {
	for _, c := range []struct {
		program Mode
		environ []string
		name    string
		want    string
	}{
		{ModeStreaming, nil, "function_process", "the handler's command (or fprocess) in mode streaming"},
		{ModeStreaming, []string{"mode=serializing", "fprocess="}, "function_process", "in mode serializing"},
		{ModeClassic, nil, "function_process", "in mode classic"},
		{ModeStreaming, []string{"mode=http"}, "upstream_url", "where the handler listens, in mode http"},
		{ModeStreaming, []string{"fprocess=cat", "jwt_auth=true", "OPENFAAS_NAMESPACE=x"}, "OPENFAAS_NAME", "jwt_auth"},
	} {
		_, err := fromEnv(t, c.program, c.environ...)
		if err == nil {
			t.Errorf("%q: no fault", c.environ)
			continue
		}
		all := faultsOf(t, err)
		if len(all) != 1 || all[0].Name != c.name || all[0].Value != "" || !strings.Contains(all[0].Want, c.want) {
			t.Errorf("%q: %v", c.environ, err)
		}
	}
	for _, mode := range []string{"http", "static", "nonsense"} {
		_, err := fromEnv(t, ModeInproc, "mode="+mode)
		if want := `mode="` + mode + `": expected inproc or none, because this program serves a handler of its own`; err == nil || err.Error() != want {
			t.Errorf("got %v, want %s", err, want)
		}
	}
	if c, err := fromEnv(t, ModeStreaming, "mode=http", "upstream_url=http://x"); err != nil || c.Command != nil {
		t.Errorf("proxy only: %q %v", c.Command, err)
	}
}

// TestAllFaultsAtOnce is what a user sees.
func TestAllFaultsAtOnce(t *testing.T) {
	_, err := fromEnv(t, ModeStreaming,
		"mode=http", "port=eighty", "WATCHDOG_EXEC_TIMEOUT=-5", "exec_timeout=5", "max_body=big",
		"upstream_url=https://x", "log_format=\n"+strings.Repeat("y", 200), "OPENFAAS_NAME=f", "ready_path=x\x00y")
	if err == nil {
		t.Fatal("no fault")
	}
	want := `port="eighty": expected a whole number of at most 2147483647
WATCHDOG_EXEC_TIMEOUT="-5": expected seconds such as 30, or a duration such as 1m30s, not negative
max_body="big": expected a number of bytes such as 1048576, 512Mi or 1G
ready_path="x\x00y": expected a text without a zero byte
upstream_url="https://x": expected http://host:port, with or without a base path, or unix:///path.sock; the way to the handler does not leave the container and has no TLS
log_format="\n` + strings.Repeat("y", 99) + `"…: expected text or json`
	if err.Error() != want {
		t.Errorf("got\n%s\nwant\n%s", err, want)
	}
}

func TestValidate(t *testing.T) {
	c := Defaults(ModeInproc)
	if err := c.Validate(); err == nil {
		t.Error("inproc without a handler is valid")
	}
	c.Handler = http.NotFoundHandler()
	if err := c.Validate(); err != nil {
		t.Error(err)
	}
	c.MetricsPort, c.ReadTimeout, c.MaxBody, c.Mode, c.ContentType = 70000, -1, -1, "", "\x7f"
	c.WriteTimeout, c.StaticPath = time.Duration(1<<62)+1, ""
	err := c.Validate()
	if err == nil || len(faultsOf(t, err)) != 6 {
		t.Errorf("got %v", err)
	}
	c = Defaults(ModeStatic)
	c.AutoInflight, c.MaxQueue, c.ReadyQueue, c.DiskPath, c.StuckTimeout = true, 1, 2, "", -1
	if err := c.Validate(); err == nil || len(faultsOf(t, err)) != 5 {
		t.Errorf("got %v", err)
	}
	c.AutoInflight, c.MaxInflight, c.ReadyQueue, c.MinDisk, c.StuckTimeout = false, 1, 1, guard.Mark{}, 0
	if err := c.Validate(); err != nil {
		t.Errorf("without a disk to look at: %v", err)
	}
	c = Defaults(ModeStatic)
	c.StaticPath = ""
	if err := c.Validate(); err == nil || err.Error() != "static_path is not set: expected the folder to serve" {
		t.Error(err)
	}
}
