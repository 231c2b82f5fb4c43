package main_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/signal"
	"runtime"
	"runtime/pprof"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/weir-run/weir/test/programtest"
	"github.com/weir-run/weir/watchdog"
)

// A second watchdog in one process panicked: routes and metrics were global.
func TestTwoWatchdogsInOneProcess(t *testing.T) {
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGUSR1) // os/signal keeps a goroutine for good once it is used
	signal.Stop(signals)
	before := runtime.NumGoroutine()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	var dogs []*watchdog.Watchdog
	ended := make(chan error, 2)
	for i := range 2 {
		cfg, err := watchdog.FromEnv([]string{"TMPDIR=" + t.TempDir(), "port=" + strconv.Itoa(programtest.FreePort(t)), "metrics_port=" + strconv.Itoa(programtest.FreePort(t)),
			"healthcheck_interval=1ms"}, watchdog.ModeInproc)
		if err != nil {
			t.Fatal(err)
		}
		cfg.Handler = http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "number ", i) })
		dog, err := watchdog.New(cfg)
		if err != nil {
			t.Fatal(err)
		}
		dog.Stdout, dog.Stderr = io.Discard, io.Discard
		if err := dog.Listen(); err != nil {
			t.Fatal(err)
		}
		dogs = append(dogs, dog)
		go func() { ended <- dog.Run(ctx) }()
	}
	for i, dog := range dogs {
		w := &instance{t: t, metric: dog.MetricsPort(), url: "http://127.0.0.1:" + strconv.Itoa(dog.Port()), exited: make(chan struct{})}
		w.waitReady()
		for range i + 1 {
			wantWhole(t, w.do("GET", "/", ""), nil, fmt.Sprint("number ", i))
		}
		if n, _ := w.sample(`http_requests_total{code="200",method="get"}`); n != float64(i+1) {
			t.Errorf("watchdog %d counted %v requests, want its own %d", i, n, i+1)
		}
	}
	cancel()
	for range dogs {
		if err := <-ended; err != nil {
			t.Errorf("Run: %v", err)
		}
	}
	for _, dog := range dogs {
		if err := dog.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	}
	for end := time.Now().Add(programtest.Patience); runtime.NumGoroutine() > before; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			var stacks strings.Builder
			pprof.Lookup("goroutine").WriteTo(&stacks, 1)
			t.Fatalf("%d goroutines before, %d now:\n%s", before, runtime.NumGoroutine(), stacks.String())
		}
	}
}
