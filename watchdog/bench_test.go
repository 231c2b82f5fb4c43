package watchdog

import (
	"io"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"
)

// benched is a watchdog whose handler does nothing, and a request to it.
func benched(b *testing.B, env ...string) (*Watchdog, *discard, *http.Request) {
	b.Helper()
	cfg, err := FromEnv(append([]string{"port=0", "metrics_port=0", "suppress_lock=true"}, env...), ModeInproc)
	if err != nil {
		b.Fatal(err)
	}
	cfg.Handler = http.NotFoundHandler()
	w, err := New(cfg)
	if err != nil {
		b.Fatal(err)
	}
	w.Stdout, w.Stderr = io.Discard, io.Discard
	if err := w.Listen(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = w.Close() })
	w.run = func(http.ResponseWriter, *http.Request, time.Time, time.Time) error { return nil }
	return w, &discard{header: http.Header{}}, httptest.NewRequest(http.MethodGet, "/", nil)
}

type discard struct{ header http.Header }

func (d *discard) Header() http.Header         { return d.header }
func (d *discard) WriteHeader(int)             {}
func (d *discard) Write(p []byte) (int, error) { return len(p), nil }

// What a request pays for being admitted: slot, guards, time limits, books.
func BenchmarkAdmit(b *testing.B) {
	for name, env := range map[string][]string{
		"no limit":     nil,
		"max_inflight": {"max_inflight=100"},
		"queue":        {"max_inflight=100", "max_queue=100"},
	} {
		b.Run(name, func(b *testing.B) {
			w, out, r := benched(b, env...)
			rw := &response{ResponseWriter: out, health: w.health}
			b.ReportAllocs()
			for b.Loop() {
				w.admit(rw, r)
			}
		})
	}
}

// A refusal without and with a queue, which is full.
func BenchmarkRefuse(b *testing.B) {
	for name, env := range map[string][]string{
		"max_inflight": {"max_inflight=1"},
	} {
		b.Run(name, func(b *testing.B) {
			w, out, r := benched(b, env...)
			rw := &response{ResponseWriter: out, health: w.health}
			if err := w.limiter.Try(1); err != nil {
				b.Fatal(err)
			}
			b.ReportAllocs()
			for b.Loop() {
				w.admit(rw, r)
			}
		})
	}
}
