package autoscaler

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/weir-run/weir/fleet"
	"github.com/weir-run/weir/function"
	"github.com/weir-run/weir/watchdog"
)

// asWatchdogs, as the first argument of this test's program, makes it so many
// watchdogs instead of a test.
const asWatchdogs = "be-watchdogs"

func TestMain(m *testing.M) {
	if len(os.Args) == 3 && os.Args[1] == asWatchdogs {
		os.Exit(beWatchdogs(os.Args[2]))
	}
	os.Exit(m.Run())
}

// beWatchdogs runs real watchdogs, whose handlers take two milliseconds, and
// prints the addresses of each: function, metrics. It ends with its input.
func beWatchdogs(number string) int {
	n, err := strconv.Atoi(number)
	if err != nil {
		return 2
	}
	for range n {
		cfg := watchdog.Defaults(watchdog.ModeInproc)
		cfg.Port, cfg.MetricsPort, cfg.MaxInflight = 0, 0, 5
		cfg.SuppressLock, cfg.HealthcheckInterval = true, 0
		cfg.Handler = http.HandlerFunc(func(http.ResponseWriter, *http.Request) { time.Sleep(2 * time.Millisecond) })
		w, err := watchdog.New(cfg)
		if err == nil {
			w.Stdout, w.Stderr = io.Discard, io.Discard
			err = w.Listen()
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		go func() { _ = w.Run(context.Background()) }()
		fmt.Printf("127.0.0.1:%d 127.0.0.1:%d\n", w.Port(), w.MetricsPort())
	}
	_, _ = io.Copy(io.Discard, os.Stdin)
	return 0
}

// BenchmarkScrape is a tick over 100 functions with 200 pods, whose counters
// are read by HTTP from as many real watchdogs of another process: how long it
// takes until all is decided, and the processor time of this side and of the
// other. Each pod is called once between two ticks.
func BenchmarkScrape(b *testing.B) {
	const functions, each = 100, 2
	addrs, other := watchdogs(b, functions*each)
	f := fleet.New(fleet.Config{})
	for i := range functions {
		fn := &function.Function{
			Ref: function.Ref{Name: fmt.Sprintf("function-%d", i), Namespace: "ns"}, Kind: function.KindDeployment,
			Spec:     function.Spec{Min: each, Max: 20, Type: function.Capacity, Target: 4, Proportion: 1},
			Replicas: each, Version: "1", Created: time.Now().Add(-time.Hour),
		}
		for j := range each {
			name := fmt.Sprintf("%s-%d", fn.Name, j)
			at := addrs[i*each+j]
			fn.Pods = append(fn.Pods, function.Pod{Name: name, UID: name, Addr: at[0], Metrics: at[1], Ready: true, Created: fn.Created})
		}
		f.Put(fn)
		for _, p := range f.Get(fn.Ref).Pods() {
			p.Learn(fleet.Saying{State: fleet.Started, Nature: fleet.Watchdog, Room: true, MaxInflight: 5})
		}
	}
	f.Synced()
	scraper := NewScraper()
	defer scraper.Close()
	a := New(Config{Fleet: f, Provider: provider{}, Counter: scraper, Log: slog.New(slog.DiscardHandler),
		Own: func() fleet.Report { return fleet.Report{Gateway: "own", Now: time.Now()} }})
	ctx, stop := context.WithCancel(b.Context())
	defer stop()
	defer a.work(ctx)()
	var took []time.Duration
	var spent, theirs time.Duration
	for b.Loop() {
		b.StopTimer()
		callEach(b, addrs)
		began, used, theyUsed := time.Now(), processor(), processorOf(b, other)
		b.StartTimer()
		a.tick(ctx)
		a.settle()
		took = append(took, time.Since(began))
		spent, theirs = spent+processor()-used, theirs+processorOf(b, other)-theyUsed
	}
	for _, t := range a.functions {
		if len(t.pods) != each || t.last.Unknown > 0 {
			b.Fatalf("%s: %d of %d pods were read: %+v", t.ref, len(t.pods), each, t.last)
		}
		for uid, c := range t.pods {
			if c.Requests < float64(len(took)) || c.InFlightSeconds <= 0 || c.LastStart.IsZero() {
				b.Fatalf("%s after %d calls: %+v", uid, len(took), c)
			}
		}
	}
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)/2].Microseconds())/1e3, "median-ms/tick")
	b.ReportMetric(float64(took[len(took)-1].Microseconds())/1e3, "worst-ms/tick")
	b.ReportMetric(float64(spent.Microseconds())/1e3/float64(len(took)), "cpu-ms/tick")
	b.ReportMetric(float64(theirs.Microseconds())/1e3/float64(len(took)), "their-cpu-ms/tick")
}

// provider takes everything, and decides.
type provider struct{}

func (provider) Scale(context.Context, function.Ref, int, string) error    { return nil }
func (provider) Spare(context.Context, function.Ref, map[string]int) error { return nil }
func (provider) Event(function.Ref, function.Event)                        {}
func (provider) Leads() bool                                               { return true }
func (provider) Peers() []string                                           { return nil }

// watchdogs starts so many in another process, and returns the addresses of
// each, and the process.
func watchdogs(b *testing.B, n int) (addrs [][2]string, pid int) {
	b.Helper()
	self, err := os.Executable()
	if err != nil {
		b.Fatal(err)
	}
	cmd := exec.Command(self, asWatchdogs, strconv.Itoa(n))
	// Its end is this one's, however that comes.
	input, err := cmd.StdinPipe()
	if err != nil {
		b.Fatal(err)
	}
	output, err := cmd.StdoutPipe()
	if err != nil {
		b.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = input.Close(); _ = cmd.Wait() })
	for lines := bufio.NewScanner(output); len(addrs) < n; {
		if !lines.Scan() {
			b.Fatalf("%d of %d watchdogs started: %v", len(addrs), n, lines.Err())
		}
		addr, metrics, _ := strings.Cut(lines.Text(), " ")
		addrs = append(addrs, [2]string{addr, metrics})
	}
	return addrs, cmd.Process.Pid
}

// processorOf is the processor time that another process has used.
func processorOf(b *testing.B, pid int) time.Duration {
	b.Helper()
	var t unix.Timespec
	// The number of a process's CPU clock, as clock_getcpuclockid(3) makes it.
	if err := unix.ClockGettime(int32(^pid<<3|2), &t); err != nil {
		b.Fatal(err)
	}
	return time.Duration(t.Nano())
}

// callEach calls every watchdog once.
func callEach(b *testing.B, addrs [][2]string) {
	b.Helper()
	for _, at := range addrs {
		conn, err := net.Dial("tcp4", at[0])
		if err != nil {
			b.Fatal(err)
		}
		_, err = io.WriteString(conn, "GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
		if err != nil {
			b.Fatal(err)
		}
		head, err := io.ReadAll(conn)
		if err != nil || !strings.HasPrefix(string(head), "HTTP/1.1 200") {
			b.Fatalf("%q, %v", head, err)
		}
		_ = conn.Close()
	}
}
