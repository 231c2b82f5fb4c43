package watchdog

import (
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/weir-run/weir/limiter/guard"
)

// A Fault is one thing that is wrong with a configuration.
type Fault struct {
	// Name is the variable as it was written, or the setting's lower-case
	// name where no variable set it.
	Name string
	// Value is the offending text, "" when something is missing.
	Value string
	// Want says what was expected.
	Want string
}

// faultValue is the longest part of a value that a message repeats, in bytes:
// enough to recognise it, and no page of a log.
const faultValue = 100

func (f *Fault) Error() string {
	if f.Value == "" {
		return fmt.Sprintf("%s is not set: expected %s", f.Name, f.Want)
	}
	value, more := f.Value, ""
	if len(value) > faultValue {
		value, more = value[:faultValue], "…"
	}
	return fmt.Sprintf("%s=%q%s: expected %s", f.Name, value, more, f.Want)
}

// Validate says everything that is wrong with c, one Fault a line, or nil.
func (c *Config) Validate() error {
	var faults []error
	c.check(func(name, value, want string) {
		faults = append(faults, &Fault{Name: name, Value: value, Want: want})
	})
	if c.Mode == ModeInproc && c.Handler == nil {
		faults = append(faults, &Fault{Name: "Config.Handler", Want: "an http.Handler in mode inproc"})
	}
	if !c.SuppressLock && c.LockPath == "" {
		faults = append(faults, &Fault{Name: "Config.LockPath", Want: "a path, unless SuppressLock"})
	}
	return errors.Join(faults...)
}

// report takes the lower-case name of a setting, its value as text, "" when it
// is missing, and what was expected.
type report func(name, value, want string)

func (c *Config) check(bad report) {
	c.checkMode(bad)
	c.checkPorts(bad)
	c.checkTimes(bad)
	c.checkQueue(bad)
	if c.MinDisk != (guard.Mark{}) && c.DiskPath == "" {
		bad("disk_path", "", "a folder, unless min_disk is off")
	}
	if c.MaxBody < 0 {
		bad("max_body", strconv.FormatInt(c.MaxBody, 10), "a number of bytes, not negative")
	}
	if c.LogBufferSize == 0 {
		bad("log_buffer_size", "0", "the longest line in bytes, or -1 for no bound")
	}
	if c.LogFormat != "text" && c.LogFormat != "json" {
		bad("log_format", c.LogFormat, "text or json")
	}
	if strings.ContainsFunc(c.ContentType, func(r rune) bool { return r < ' ' || r == 0x7f }) {
		bad("content_type", c.ContentType, "a header value without control characters")
	}
	if c.ReadyPath != "" {
		u, err := url.ParseRequestURI(c.ReadyPath)
		if err != nil || c.ReadyPath[0] != '/' || u.Host != "" {
			bad("ready_path", c.ReadyPath, "a path that begins with /")
		}
	}
	if c.JWTAuth {
		if c.FunctionName == "" {
			bad("OPENFAAS_NAME", "", "the function's name, because jwt_auth is on")
		}
		if c.FunctionNamespace == "" {
			bad("OPENFAAS_NAMESPACE", "", "the function's namespace, because jwt_auth is on")
		}
	}
}

func (c *Config) checkMode(bad report) {
	switch c.Mode {
	case ModeStreaming, ModeSerializing, ModeClassic:
		if len(c.Command) == 0 {
			bad("function_process", "", "the handler's command (or fprocess) in mode "+string(c.Mode))
		}
	case ModeHTTP:
		if c.UpstreamURL == "" {
			bad("upstream_url", "", "where the handler listens, in mode http, such as http://127.0.0.1:5000")
		} else if want := c.upstreamFault(); want != "" {
			bad("http_upstream_url", c.UpstreamURL, want)
		}
	case ModeStatic:
		if c.StaticPath == "" {
			bad("static_path", "", "the folder to serve")
		}
	case ModeInproc:
	default:
		bad("mode", string(c.Mode), "streaming, serializing, http, static or classic")
	}
}

// longestSocketPath is what a sockaddr_un of Linux holds beside its zero byte.
const longestSocketPath = 107

// upstreamFault says what is expected of UpstreamURL where it is not that.
func (c *Config) upstreamFault() string {
	const form = "http://host:port, with or without a base path, or unix:///path.sock"
	u, err := url.Parse(c.UpstreamURL)
	if err != nil || u.User != nil || u.RawQuery != "" || u.Fragment != "" || u.Opaque != "" {
		return form
	}
	switch u.Scheme {
	case "http":
		port, err := strconv.ParseUint(u.Port(), 10, 16)
		if u.Hostname() == "" || u.Port() != "" && (err != nil || port == 0) || u.Port() == "" && strings.HasSuffix(u.Host, ":") {
			return form
		}
		if c.Port != 0 && int(port) == c.Port && loopback(u.Hostname()) {
			return "another port than the watchdog's own, or it would call itself"
		}
		return ""
	case "unix":
		if u.Host != "" || len(u.Path) < 2 || u.Path[0] != '/' {
			return form
		}
		if len(u.Path) > longestSocketPath {
			return fmt.Sprintf("a socket's path of at most %d bytes", longestSocketPath)
		}
		return ""
	case "https":
		return form + "; the way to the handler does not leave the container and has no TLS"
	}
	return form
}

func loopback(host string) bool {
	addr, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && addr.Unmap().IsLoopback()
}

func (c *Config) checkPorts(bad report) {
	for _, p := range []struct {
		name string
		port int
	}{{"port", c.Port}, {"metrics_port", c.MetricsPort}} {
		if p.port < 0 || p.port > 65535 {
			bad(p.name, strconv.Itoa(p.port), "a port from 1 to 65535, or 0 for a free one")
		}
	}
	if _, err := netip.ParseAddr(c.ListenAddress); err != nil && c.ListenAddress != "" {
		bad("listen_address", c.ListenAddress, "an IP address, or none for every one")
	}
	if c.Port == c.MetricsPort && c.Port != 0 {
		bad("metrics_port", strconv.Itoa(c.MetricsPort), "another port than that of the function")
	}
}

func (c *Config) checkTimes(bad report) {
	for _, t := range []struct {
		name string
		d    time.Duration
	}{
		{"read_timeout", c.ReadTimeout}, {"write_timeout", c.WriteTimeout}, {"exec_timeout", c.ExecTimeout},
		{"healthcheck_interval", c.HealthcheckInterval}, {"shutdown_timeout", c.ShutdownTimeout}, {"kill_grace", c.KillGrace},
		{"queue_timeout", c.QueueTimeout}, {"stuck_timeout", c.StuckTimeout},
	} {
		if t.d < 0 || t.d > maxDuration {
			bad(t.name, t.d.String(), "a duration that is not negative")
		}
	}
	if c.WriteTimeout == 0 {
		bad("write_timeout", "0s", "a duration over 0")
	}
}

// checkQueue says what does not go together: where nothing is bound nothing
// waits, and readiness cannot wait for more than there is room for.
func (c *Config) checkQueue(bad report) {
	if c.AutoInflight && c.MaxInflight < 1 {
		bad("max_inflight", "auto:"+strconv.Itoa(c.MaxInflight), "a highest limit over 0")
	}
	switch {
	case c.MaxQueue < 0:
		bad("max_queue", strconv.Itoa(c.MaxQueue), "a number that is not negative")
		return
	case c.MaxQueue > 0 && c.MaxInflight <= 0:
		bad("max_queue", strconv.Itoa(c.MaxQueue), "max_inflight beside it, because without a limit nothing waits")
	}
	if c.ReadyQueue < 0 || c.ReadyQueue > c.MaxQueue {
		bad("ready_queue", strconv.Itoa(c.ReadyQueue), "a number from 0 to max_queue")
	}
}
