package watchdog

import (
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/weir-run/weir/proxy"
)

// FuzzFromEnv: any environment gives a Config that Validate accepts or faults
// that can be printed, one a line, and the process's own is as it was.
func FuzzFromEnv(f *testing.F) {
	for _, seed := range []string{
		"fprocess=cat",
		"fprocess=cat\nmode=http\nupstream_url=http://127.0.0.1:5000/a",
		"function_process=sh -c 'a b'\nport=1\nWATCHDOG_PORT=tcp://1.2.3.4:5",
		"mode=static\nstatic_path=/x\nmax_body=1Gi\nhealthcheck_interval=0",
		"fprocess=\"\nwrite_timeout=0\nport=8081\nlog_format=xml\njwt_auth=1",
		"mode=http\nupstream_url=unix:///x\nbuffer_http=0\nhttp_buffer_req_body=1",
		"fprocess=a\nmax_inflight=auto:64\nmax_queue=8\nready_queue=3\nqueue_timeout=0\nlog_level=debug",
		"fprocess=a\nmax_inflight=1\nmax_queue=-1\nmax_memory=120%\nmin_disk=1%\nmax_fds=off\nmax_pids=1e3\nstuck_timeout=off",
		"exec_timeout=9223372036854775807\nread_timeout=-1ns\nmax_inflight=-2147483648",
	} {
		f.Add(seed, uint8(0))
		f.Add(seed, uint8(1))
		f.Add(seed, uint8(2))
	}
	// Names that are there already cost the process's environment no new
	// place at each call: a long run stays fast.
	for i := range settings {
		if key := upper(settings[i].names[0]); os.Getenv(key) == "" {
			if err := os.Setenv(key, ""); err != nil {
				f.Fatal(err)
			}
			f.Cleanup(func() { _ = os.Unsetenv(key) })
		}
	}
	f.Fuzz(func(t *testing.T, lines string, program uint8) {
		programs := []Mode{ModeStreaming, ModeClassic, ModeInproc}
		environ := strings.Split(lines, "\n")
		cfg, err := fromEnv(t, programs[int(program)%len(programs)], environ...)
		if err != nil {
			for _, fault := range faultsOf(t, err) {
				// The name is one of ours, the value is capped and quoted
				// (four bytes a byte at most), the rest is ours too.
				line := fault.Error()
				if fault.Name == "" || fault.Want == "" || strings.ContainsAny(line, "\n\x00\x1b") || len(line) > 800 {
					t.Errorf("fault %q", line)
				}
			}
			return
		}
		if cfg.Mode == ModeInproc {
			cfg.Handler = http.NotFoundHandler()
		}
		if err := cfg.Validate(); err != nil {
			t.Errorf("%q is valid, its Config is not: %v", environ, err)
		}
		if cfg.Mode == ModeHTTP {
			if _, err := proxy.New(cfg.UpstreamURL); err != nil {
				t.Errorf("upstream %q is valid, the proxy cannot be made: %v", cfg.UpstreamURL, err)
			}
		}
		if !slices.Equal(cfg.Environ, environ) {
			t.Errorf("handler's environment is %q, not %q", cfg.Environ, environ)
		}
	})
}
