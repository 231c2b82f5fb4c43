package main

import (
	"context"
	"encoding/csv"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"github.com/weir-run/weir/bench/cage"
	"github.com/weir-run/weir/contract"
)

// The sweep shows what each kind of limit does between a tenth of and ten
// times what a handler can take: goodput, latency and refusals of an open
// load. docs/BACKPRESSURE.md tells about it.

// The handler: sweepSlots real slots, a time and an amount of memory for each
// request, and a container of sweepMemory for it and its watchdog.
const (
	sweepSlots   = 8
	sweepWork    = 20 * time.Millisecond
	sweepRequest = 1 << 20
	sweepMemory  = 1 << 30
	// sweepCapacity is in requests per second.
	sweepCapacity = float64(sweepSlots) * float64(time.Second) / float64(sweepWork)
)

// The clients: an answer is good within sweepGood, and after sweepLeave there
// is nobody to take it. With none refused, sweepConns are as many connections
// as come within that time at the highest load, and some.
const (
	sweepGood  = time.Second
	sweepLeave = 2 * time.Second
	sweepConns = 9000
)

// sweepTime is how much of each load is counted.
const sweepTime = 5 * time.Second

// sweepLoads are what is offered, in times of the capacity.
var sweepLoads = []float64{0.1, 0.3, 0.6, 0.8, 1, 1.25, 1.5, 2, 3, 5, 10}

// sweepSystem is what is measured: fwatchdog with some settings.
type sweepSystem struct {
	name string
	env  []string
	// warm is driven before each point.
	warm time.Duration
	// loads are all of sweepLoads when nil.
	loads []float64
}

// A fixed limit is what it is from its first request. The adaptive one has a
// new load to get used to.
const (
	sweepWarm     = 2 * time.Second
	sweepWarmAuto = 10 * time.Second
)

// sweepSystems are drawn in this order, but for the last: what the guard
// prevents, measured at two loads.
var sweepSystems = []sweepSystem{
	{"no limit", nil, sweepWarm, nil},
	{"max_inflight=8", []string{"max_inflight=8"}, sweepWarm, nil},
	{"max_inflight=8, max_queue=16", []string{"max_inflight=8", "max_queue=16", "queue_timeout=1s"}, sweepWarm, nil},
	{"max_inflight=auto:200", []string{"max_inflight=auto:200"}, sweepWarmAuto, nil},
	{"no limit, max_memory=off", []string{"max_memory=off"}, sweepWarm, []float64{5, 10}},
}

// sweepFile is the name of the data in the folder of -sweep.
const sweepFile = "sweep.csv"

// sweepColumns are the columns of that file. Counts are per second of what was
// due within the counted time; latencies are in milliseconds from the moment a
// request was due. admitted: answered 200 within 2 s or left by its client
// then, which counts as 2 s. limit is what it was at the end, 0 for none;
// memory the highest use of the container, in MiB; kills the processes that
// the kernel killed in it; lag how late the generator itself was.
var sweepColumns = []string{
	"system", "load", "offered", "good", "late", "left", "failed", "unsent",
	"refused inflight", "refused queue", "refused memory", "refused otherwise",
	"good p50", "good p99", "admitted p50", "admitted p99", "refusal p50", "refusal p99",
	"limit", "memory", "kills", "lag p99",
}

// sweep measures every system at every load and writes the table to a file in
// dir. It takes some 8 minutes, and as root it uses real memory cgroups.
func (s settings) sweep(ctx context.Context, dir string) error {
	runners := make([]*sweeper, len(sweepSystems))
	for i, system := range sweepSystems {
		runners[i] = &sweeper{settings: s, system: system}
		defer runners[i].stop()
		if err := runners[i].prepare(); err != nil {
			return fmt.Errorf("%s: %w", system.name, err)
		}
	}
	rows := make([][][]string, len(runners))
	began := machine()
	// Load by load, each system in turn, so that none has a quieter time of
	// the machine than another.
	for _, load := range sweepLoads {
		for i, r := range runners {
			if !r.wants(load) {
				continue
			}
			row, err := r.point(ctx, load)
			if err != nil {
				return fmt.Errorf("%s at %g: %w", r.system.name, load, err)
			}
			fmt.Fprintln(os.Stderr, "bench:", strings.Join(row, " | "))
			rows[i] = append(rows[i], row)
		}
	}
	return writeSweep(filepath.Join(dir, sweepFile), began, rows)
}

func writeSweep(path, where string, systems [][][]string) (err error) {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	container := fmt.Sprintf("a memory cgroup of %d MiB", sweepMemory>>20)
	if os.Geteuid() != 0 {
		container = "no memory cgroup (not root)"
	}
	if _, err := fmt.Fprintf(f, "# %s\n# handler: %d slots of %v, %d MiB a request, %s; good within %v, clients leave after %v\n",
		where, sweepSlots, sweepWork, sweepRequest>>20, container, sweepGood, sweepLeave); err != nil {
		return err
	}
	w := csv.NewWriter(f)
	if err := w.Write(sweepColumns); err != nil {
		return err
	}
	for _, rows := range systems {
		if err := w.WriteAll(rows); err != nil {
			return err
		}
	}
	return nil
}

// sweeper is one system of the sweep.
type sweeper struct {
	settings
	system sweepSystem
	cage   *cage.Cage // nil without root
	server *server
}

func (r *sweeper) prepare() error {
	var err error
	r.cage, err = cage.New(cage.Limits{Memory: sweepMemory})
	if errors.Is(err, cage.ErrUnavailable) {
		fmt.Fprintln(os.Stderr, "bench: no memory cgroup:", err)
		return nil
	}
	return err
}

func (r *sweeper) wants(load float64) bool {
	if r.system.loads == nil {
		return true
	}
	for _, l := range r.system.loads {
		if l == load {
			return r.cage != nil // without a cgroup there is nothing to show
		}
	}
	return false
}

func (r *sweeper) stop() {
	if r.server != nil {
		r.server.stop()
	}
	if r.cage != nil {
		if err := r.cage.Close(); err != nil {
			fmt.Fprintln(os.Stderr, "bench:", err)
		}
	}
}

// start starts the watchdog unless it is still there from the point before: a
// container that was killed is started anew.
func (r *sweeper) start(ctx context.Context) error {
	if r.server != nil {
		if a, err := get(r.server.addr, contract.HealthPath); err == nil && a.status == http.StatusOK {
			return nil
		}
		r.server.stop()
	}
	var addrs [3]string
	for i := range addrs {
		var err error
		if addrs[i], err = freeAddr(); err != nil {
			return err
		}
	}
	port := func(addr string) string { _, p, _ := strings.Cut(addr, ":"); return p }
	handler := r.role("slots", addrs[2], strconv.Itoa(sweepSlots), sweepWork.String(), strconv.Itoa(sweepRequest))
	env := append([]string{
		"mode=http", "fprocess=" + strings.Join(handler, " "), "http_upstream_url=http://" + addrs[2],
		"port=" + port(addrs[0]), "metrics_port=" + port(addrs[1]), "healthcheck_interval=1ms", "suppress_lock=true",
	}, r.system.env...)
	argv := []string{r.fwatchdog}
	if r.cage != nil {
		argv = r.cage.Argv(argv...)
	}
	var err error
	if r.server, err = startServer(ctx, r.system.name, addrs[0], r.quiet, env, argv...); err != nil {
		return err
	}
	r.server.metrics = addrs[1]
	return nil
}

// maxLag is how late the generator may be, at p99, for a point to say anything
// of the server. One that is worse, because something else ran on the machine,
// is measured once more.
const maxLag = 10 * time.Millisecond

// point measures one load and returns its row.
func (r *sweeper) point(ctx context.Context, load float64) ([]string, error) {
	row, lag, err := r.try(ctx, load)
	if err != nil || lag <= maxLag {
		return row, err
	}
	again, less, err := r.try(ctx, load)
	if less > maxLag {
		fmt.Fprintf(os.Stderr, "bench: the machine is busy: requests were up to %v and %v late\n", lag, less)
	}
	if err != nil || less > lag {
		return row, err
	}
	return again, nil
}

// try is point without a second chance. It returns the lag besides.
func (r *sweeper) try(ctx context.Context, load float64) ([]string, time.Duration, error) {
	if err := r.start(ctx); err != nil {
		return nil, 0, err
	}
	kills, err := r.kills()
	if err != nil {
		return nil, 0, err
	}
	highest := r.followMemory()
	result, err := openLoad{
		addr: r.server.addr, request: request("GET", "/work", ""), rate: load * sweepCapacity,
		warm: r.system.warm, time: sweepTime, good: sweepGood, leave: sweepLeave, conns: sweepConns,
	}.run(ctx)
	memory := highest()
	if err != nil {
		return nil, 0, err
	}
	after, err := r.kills()
	if err != nil {
		return nil, 0, err
	}
	lag := time.Duration(at(result.lags, 0.99) * float64(time.Millisecond))
	return sweepRow(r.system.name, load, result, r.limit(), memory, after-kills), lag, nil
}

func sweepRow(name string, load float64, x openResult, limit, memory int64, kills int) []string {
	n := func(v float64, decimals int) string { return strconv.FormatFloat(v, 'f', decimals, 64) }
	rate := func(count int) string { return n(x.perSecond(count), 1) }
	named := x.refused[contract.RejectInflight] + x.refused[contract.RejectQueue] + x.refused["memory"]
	return []string{
		name, n(load, 2), rate(x.due), rate(x.good), rate(x.late), rate(x.left), rate(x.failed), rate(x.unsent),
		rate(x.refused[contract.RejectInflight]), rate(x.refused[contract.RejectQueue]), rate(x.refused["memory"]),
		rate(x.allRefused() - named),
		n(at(x.goods, 0.5), 1), n(at(x.goods, 0.99), 1), n(at(x.admitted, 0.5), 1), n(at(x.admitted, 0.99), 1),
		n(at(x.refusals, 0.5), 3), n(at(x.refusals, 0.99), 3),
		strconv.FormatInt(limit, 10), strconv.FormatInt(memory>>20, 10), strconv.Itoa(kills), n(at(x.lags, 0.99), 3),
	}
}

func (r *sweeper) kills() (int, error) {
	if r.cage == nil {
		return 0, nil
	}
	return r.cage.OOMKills()
}

// followMemory watches what the container uses until the function it returns
// is called, which says the highest that was seen, in bytes.
func (r *sweeper) followMemory() func() int64 {
	if r.cage == nil {
		return func() int64 { return 0 }
	}
	const every = 20 * time.Millisecond
	var (
		highest int64
		done    = make(chan struct{})
		ended   sync.WaitGroup
	)
	ended.Go(func() {
		for tick := time.Tick(every); ; {
			if now, err := r.cage.Memory(); err == nil {
				highest = max(highest, now)
			}
			select {
			case <-done:
				return
			case <-tick:
			}
		}
	})
	return func() int64 {
		close(done)
		ended.Wait()
		return highest
	}
}

// limit is the number of requests that may be in flight now, 0 for none or
// when nobody is there to say.
func (r *sweeper) limit() int64 {
	client := http.Client{Timeout: 2 * time.Second}
	defer client.CloseIdleConnections()
	resp, err := client.Get("http://" + r.server.metrics + "/metrics")
	if err != nil {
		return 0
	}
	defer resp.Body.Close()
	parser := expfmt.NewTextParser(model.LegacyValidation)
	families, err := parser.TextToMetricFamilies(resp.Body)
	if err != nil {
		return 0
	}
	family := families[contract.MetricMaxInflight]
	if len(family.GetMetric()) == 0 {
		return 0
	}
	return int64(family.GetMetric()[0].GetGauge().GetValue())
}
