package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// The case of a backlog that is worked off.
const (
	drainCalls = 10_000
	drainWork  = 10 * time.Millisecond
	// drainLeast is the share of what the pods can do.
	drainLeast = 0.90
	// drainRefused is the share of deliveries that pods may refuse.
	drainRefused = 0.01
	drainRounds  = 3
	drainSync    = 2 * time.Second
	drainTimeout = 2 * time.Minute
)

// shape is a fixed number of pods, and how many calls each runs at once.
type shape struct{ pods, places int }

// drainShapes are few places, so that the processors are not what limits.
var drainShapes = []shape{{2, 5}, {4, 5}}

func (s shape) String() string { return fmt.Sprintf("%d × %d", s.pods, s.places) }

// ideal is how many calls a second the pods can do.
func (s shape) ideal() float64 {
	return float64(s.pods*s.places) / drainWork.Seconds()
}

// drainStack is a function of this shape, which serves once the file gate is
// there and writes what it did into the folder ledgers.
func drainStack(s settings, of shape, gate, ledgers string) string {
	return fmt.Sprintf(`  %s:
    fprocess: %s role worker 127.0.0.1:$PORT %s %v %s
    environment: {mode: http, max_inflight: %d}
    labels: {com.openfaas.scale.min: "%d", com.openfaas.scale.max: "%[7]d"}
`, drainFunction, s.self, gate, drainWork, ledgers, of.places, of.pods)
}

// worker is a handler that begins to listen when the file args[0] is there.
// Each request takes args[1]; when it began and ended is appended to a file of
// its own in the folder args[2].
func worker(addr string, args []string) error {
	work, err := time.ParseDuration(args[1])
	if err != nil {
		return err
	}
	for {
		if _, err := os.Stat(args[0]); err == nil {
			break
		}
		time.Sleep(5 * time.Millisecond)
	}
	ledger, err := os.OpenFile(filepath.Join(args[2], fmt.Sprintf("%d%s", os.Getpid(), ledgerSuffix)), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	return http.ListenAndServe(addr, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodPost {
			return // a question whether it serves
		}
		began := time.Now()
		time.Sleep(work)
		line := binary.LittleEndian.AppendUint64(nil, uint64(began.UnixNano()))
		line = binary.LittleEndian.AppendUint64(line, uint64(time.Now().UnixNano()))
		if _, err := ledger.Write(line); err != nil {
			panic(err)
		}
		_, _ = w.Write([]byte("done\n"))
	}))
}

const ledgerSuffix = ".ledger"

// worked is what handlers did: how many calls, from the begin of the first to
// the end of the last, and how long all of them took together.
type worked struct {
	calls       int
	first, last time.Time
	busy        time.Duration
}

func (w worked) rate() float64 { return float64(w.calls) / w.last.Sub(w.first).Seconds() }

// share is how much of the places' time was work.
func (w worked) share(places int) float64 {
	return w.busy.Seconds() / w.last.Sub(w.first).Seconds() / float64(places)
}

func readLedgers(folder string) (w worked, err error) {
	files, err := filepath.Glob(filepath.Join(folder, "*"+ledgerSuffix))
	if err != nil {
		return w, err
	}
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			return w, err
		}
		for line := range slices.Chunk(data, 16) {
			if len(line) < 16 {
				return w, fmt.Errorf("%s ends within a line", file)
			}
			began := time.Unix(0, int64(binary.LittleEndian.Uint64(line)))
			ended := time.Unix(0, int64(binary.LittleEndian.Uint64(line[8:])))
			if w.calls == 0 || began.Before(w.first) {
				w.first = began
			}
			if ended.After(w.last) {
				w.last = ended
			}
			w.calls++
			w.busy += ended.Sub(began)
		}
	}
	return w, nil
}

// drained is one backlog that was worked off.
type drained struct {
	worked
	refused, deliveries float64
	cpu                 time.Duration
	// inflight is how long all places together were taken, in seconds.
	inflight float64
	// sync is what as many clients of weir as there are places saw afterwards,
	// and direct the answers a second that these had of the pods themselves.
	sync   result
	direct float64
}

func asyncDrain(ctx context.Context, s settings, r *report) error {
	for _, of := range drainShapes {
		var rates, nominal, shares, taken, busy, cpu, syncCPU []float64
		refused, deliveries, calls := 0.0, 0.0, 0
		for range drainRounds {
			d, err := s.drainOnce(ctx, of)
			if err != nil {
				return fmt.Errorf("%s: %w", of, err)
			}
			rates = append(rates, d.rate()/d.direct)
			nominal = append(nominal, d.rate()/of.ideal())
			taken = append(taken, d.inflight/d.last.Sub(d.first).Seconds()/float64(of.pods*of.places))
			shares = append(shares, d.rate()/d.sync.rate())
			busy = append(busy, d.share(of.pods*of.places))
			cpu = append(cpu, float64(d.cpu.Microseconds())/float64(d.calls))
			syncCPU = append(syncCPU, d.sync.cpuPerAnswer())
			refused, deliveries, calls = refused+d.refused, deliveries+d.deliveries, calls+d.calls
		}
		places := fmt.Sprintf("%s places of %v, ", of, drainWork)
		r.atLeast(fmt.Sprintf("%s%d queued: share of the calls/s that the pods answer without weir", places, drainCalls), rates, drainLeast)
		r.note(fmt.Sprintf("%sshare of %.0f calls/s, which nothing but the work would leave", places, of.ideal()), spread(nominal))
		r.atLeast(places+"share of the places' time that they are taken", taken, drainLeast)
		r.note(places+"share of the places' time that handlers work", spread(busy))
		r.note(places+"times the calls/s of as many clients that call and wait", spread(shares))
		r.note(places+"weir's own CPU of a call, µs; of one that a client waits for", fmt.Sprintf("%.0f; %.0f", median(cpu), median(syncCPU)))
		r.bound(places+"deliveries that a pod refused", fmt.Sprintf("< %.0f %%", drainRefused*100),
			fmt.Sprintf("%.2f %% (%.0f of %.0f)", 100*refused/deliveries, refused, deliveries), refused < drainRefused*deliveries)
		r.bound(places+"calls that handlers ran", fmt.Sprint(drainRounds*drainCalls), fmt.Sprint(calls), calls == drainRounds*drainCalls)
	}
	return nil
}

// drainOnce queues calls for pods that do not serve yet, lets them, and waits
// until all calls have ended.
func (s settings) drainOnce(ctx context.Context, of shape) (d drained, err error) {
	ctx, cancel := context.WithTimeout(ctx, drainTimeout)
	defer cancel()
	ledgers, err := os.MkdirTemp(s.dir, "ledgers")
	if err != nil {
		return d, err
	}
	gate := filepath.Join(ledgers, "gate")
	store, err := s.asyncStore("functions:\n" + drainStack(s, of, gate, ledgers))
	if err != nil {
		return d, err
	}
	weir, err := store.start(ctx)
	if err != nil {
		return d, err
	}
	defer weir.stop()
	if _, err := queueUp(ctx, weir.addr, drainPath, drainCalls); err != nil {
		return d, err
	}
	before, err := processCPU(weir.pid())
	if err != nil {
		return d, err
	}
	if err := os.WriteFile(gate, nil, 0o600); err != nil {
		return d, err
	}
	if err := ended(ctx, weir, drainCalls); err != nil {
		return d, err
	}
	after, err := processCPU(weir.pid())
	if err != nil {
		return d, err
	}
	d.cpu = after - before
	if d.worked, err = readLedgers(ledgers); err != nil {
		return d, err
	}
	if d.deliveries, err = weir.metric("weir_async_deliveries_total"); err != nil {
		return d, err
	}
	if d.refused, err = weir.metric("weir_async_refused_total"); err != nil {
		return d, err
	}
	replicas, err := replicasOf(weir)
	if err == nil && len(replicas) != of.pods {
		err = fmt.Errorf("%d replicas where %d should be", len(replicas), of.pods)
	}
	if err != nil {
		return d, err
	}
	for _, pod := range replicas {
		taken, err := pod.metric("http_requests_in_flight_seconds_total")
		if err != nil {
			return d, err
		}
		d.inflight += taken
	}
	d.sync, err = load{addr: weir.addr, conns: of.pods * of.places, request: asyncRequest("/function/" + drainFunction + "/"),
		warm: warm, time: drainSync, pid: weir.pid()}.run(ctx)
	if err := errors.Join(err, allGood("called at once", []result{d.sync})); err != nil {
		return d, err
	}
	d.direct, err = callReplicas(ctx, replicas, of.places)
	return d, err
}

// callReplicas is how many calls a second replicas answer in all to clients of
// their own, as many as each has places.
func callReplicas(ctx context.Context, replicas []*server, places int) (rate float64, err error) {
	results, errs := make([]result, len(replicas)), make([]error, len(replicas))
	var all sync.WaitGroup
	for i, pod := range replicas {
		all.Go(func() {
			results[i], errs[i] = load{addr: pod.addr, conns: places, request: asyncRequest("/"), warm: warm, time: drainSync}.run(ctx)
		})
	}
	all.Wait()
	for _, r := range results {
		rate += r.rate()
	}
	return rate, errors.Join(append(errs, allGood("without weir", results))...)
}

// replicasOf are the fwatchdogs that weir has started, to be asked only: they
// are children of a process of weir's that keeps them.
func replicasOf(weir *server) (all []*server, err error) {
	keepers, err := childrenOf(strconv.Itoa(weir.pid()))
	if err != nil {
		return nil, err
	}
	for _, keeper := range keepers {
		pids, err := childrenOf(keeper)
		if err != nil {
			return nil, err
		}
		for _, pid := range pids {
			environ, err := os.ReadFile("/proc/" + pid + "/environ")
			if err != nil {
				return nil, err
			}
			pod := &server{name: "replica " + pid}
			for setting := range strings.SplitSeq(string(environ), "\x00") {
				if port, ok := strings.CutPrefix(setting, "port="); ok {
					pod.addr = net.JoinHostPort("127.0.0.1", port)
				} else if port, ok := strings.CutPrefix(setting, "metrics_port="); ok {
					pod.metrics = net.JoinHostPort("127.0.0.1", port)
				}
			}
			all = append(all, pod)
		}
	}
	return all, nil
}

func childrenOf(pid string) (children []string, err error) {
	lists, err := filepath.Glob("/proc/" + pid + "/task/*/children")
	if err != nil {
		return nil, err
	}
	for _, list := range lists {
		pids, err := os.ReadFile(list)
		if err != nil {
			return nil, err
		}
		children = append(children, strings.Fields(string(pids))...)
	}
	return children, nil
}

// ended waits until so many calls have. It does not ask often, for that is work
// for weir too; the handlers' ledgers have the times.
func ended(ctx context.Context, weir *server, calls float64) error {
	for {
		n, err := weir.metric("queue_worker_messages_processed_total")
		if err == nil && n >= calls {
			return nil
		}
		if err == nil {
			err = fmt.Errorf("%.0f of %.0f calls have ended", n, calls)
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(200 * time.Millisecond):
		}
	}
}
