package main

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/weir-run/weir/function"
	"github.com/weir-run/weir/queue"
	"github.com/weir-run/weir/queue/jetstream"
)

// async is the queue of asynchronous calls, also while it is not there yet: the
// servers that keep the calls may come up after weir. It is the gateway's
// Async.
type async struct {
	w     *weir
	queue atomic.Pointer[queue.Queue]
	// why is what stands in the way of a queue.
	why atomic.Pointer[error]
	// between stands between the queue and its store, where a test wants that.
	between func(queue.Store) queue.Store
	// opened is closed when there is a queue; ended when its Run has returned.
	opened, ended chan struct{}
}

func newAsync(w *weir) *async {
	return &async{w: w, opened: make(chan struct{}), ended: make(chan struct{})}
}

const (
	// reopenPause is between two tries to reach the servers that keep calls.
	reopenPause = time.Second
	// alonePatience is how long another weir may still be there when one that
	// keeps calls by itself starts: one that is being replaced ends first.
	alonePatience = time.Minute
)

// Run opens the store and works on its calls until ctx ends. What weir keeps
// itself must open; servers elsewhere are tried until they answer.
func (a *async) Run(ctx context.Context, pods queue.Pods) error {
	defer close(a.ended)
	if a.w.settings.embedded() {
		if err := a.alone(ctx); err != nil {
			return err
		}
	}
	store, err := a.open(ctx)
	if store == nil {
		return err
	}
	defer func() {
		if err := store.Close(); err != nil {
			a.w.log.Error("the store of asynchronous calls was not closed well", "error", err)
		}
	}()
	kept := queue.Store(store)
	if a.between != nil {
		kept = a.between(kept)
	}
	q, err := queue.New(a.w.queueConfig(kept))
	if err != nil {
		return err
	}
	a.queue.Store(q)
	close(a.opened)
	return q.Run(ctx, pods)
}

// alone waits until no other weir serves: two that keep calls by themselves
// would not know of each other's.
func (a *async) alone(ctx context.Context) error {
	p, several := a.w.provider.(interface{ Alone() (known, alone bool) })
	if !several {
		return nil
	}
	said := false
	for end := time.Now().Add(alonePatience); ; {
		known, alone := p.Alone()
		switch {
		case known && alone:
			return nil
		case known && time.Now().After(end):
			return fmt.Errorf("WEIR_DATA_DIR keeps asynchronous calls in this weir alone, and others of %q serve beside it (%s): run one weir (chart: store.embedded), or keep calls in WEIR_NATS_URL",
				a.w.settings.Release.val, strings.Join(a.w.provider.Peers(), ", "))
		case known && !said:
			said = true
			a.w.log.Warn("another weir serves; asynchronous calls are taken when this one is alone", "others", a.w.provider.Peers())
		}
		select {
		case <-time.After(100 * time.Millisecond):
		case <-ctx.Done():
			return nil
		}
	}
}

func (a *async) open(ctx context.Context) (*jetstream.Store, error) {
	said := ""
	for {
		store, err := jetstream.Open(ctx, a.w.storeConfig())
		switch {
		case err == nil:
			if said != "" {
				a.w.log.Info("asynchronous calls are taken now")
			}
			return store, nil
		case ctx.Err() != nil:
			return nil, nil
		case a.w.settings.embedded():
			return nil, fmt.Errorf("WEIR_DATA_DIR=%q: %w", a.w.settings.DataDir.val, err)
		}
		a.why.Store(&err)
		if text := err.Error(); text != said {
			said = text
			a.w.log.Error("no asynchronous calls until the servers of WEIR_NATS_URL keep them; tried every second", "error", err)
		}
		select {
		case <-time.After(reopenPause):
		case <-ctx.Done():
			return nil, nil
		}
	}
}

// drain finishes the calls that run, and hands back what ctx does not give the
// time for.
func (a *async) drain(ctx context.Context) {
	q := a.queue.Load()
	if q == nil {
		return
	}
	if err := q.Drain(ctx); err != nil {
		a.w.log.Warn("asynchronous calls were cut, and will run again: they took longer than WEIR_SHUTDOWN_TIMEOUT", "timeout", a.w.settings.ShutdownTimeout.val)
	}
}

// now is the queue, or why there is none yet.
func (a *async) now() (*queue.Queue, error) {
	if q := a.queue.Load(); q != nil {
		return q, nil
	}
	if why := a.why.Load(); why != nil {
		return nil, fmt.Errorf("%w: %w: %w", queue.ErrAway, queue.ErrNotOpen, *why)
	}
	return nil, fmt.Errorf("%w: %w", queue.ErrAway, queue.ErrNotOpen)
}

func (a *async) Submit(ctx context.Context, m *queue.Message, key string) (queue.ID, bool, error) {
	q, err := a.now()
	if err != nil {
		return queue.ID{}, false, err
	}
	return q.Submit(ctx, m, key)
}

func (a *async) Call(ctx context.Context, id queue.ID) (queue.Call, error) {
	q, err := a.now()
	if err != nil {
		return queue.Call{}, err
	}
	return q.Call(ctx, id)
}

func (a *async) Cancel(ctx context.Context, id queue.ID) (queue.Call, error) {
	q, err := a.now()
	if err != nil {
		return queue.Call{}, err
	}
	return q.Cancel(ctx, id)
}

func (a *async) DeadLetters(ctx context.Context, ref function.Ref, after uint64, n int) ([]queue.DeadLetter, error) {
	q, err := a.now()
	if err != nil {
		return nil, err
	}
	return q.DeadLetters(ctx, ref, after, n)
}

func (a *async) DeadLetter(ctx context.Context, id queue.ID) (queue.DeadLetter, error) {
	q, err := a.now()
	if err != nil {
		return queue.DeadLetter{}, err
	}
	return q.DeadLetter(ctx, id)
}

func (a *async) Resend(ctx context.Context, id queue.ID) (queue.ID, error) {
	q, err := a.now()
	if err != nil {
		return queue.ID{}, err
	}
	return q.Resend(ctx, id)
}

func (a *async) Drop(ctx context.Context, id queue.ID) error {
	q, err := a.now()
	if err != nil {
		return err
	}
	return q.Drop(ctx, id)
}

// checkCallback takes everything while there is no queue: Submit says so then.
func (a *async) checkCallback(url string) error {
	if q := a.queue.Load(); q != nil {
		return q.CheckCallback(url)
	}
	return nil
}

// backlog is for the autoscaler.
func (a *async) backlog(ref function.Ref) int {
	if q := a.queue.Load(); q != nil {
		return q.Backlog(ref)
	}
	return 0
}

// Describe says nothing, for what there is to collect comes later.
func (*async) Describe(chan<- *prometheus.Desc) {}

// Collect is that of the queue's metrics.
func (a *async) Collect(to chan<- prometheus.Metric) {
	if q := a.queue.Load(); q != nil {
		for _, c := range q.Metrics() {
			c.Collect(to)
		}
	}
}

// storeConfig is where calls are kept, as the settings say.
func (w *weir) storeConfig() jetstream.Config {
	s := w.settings
	name := s.NatsPrefix.val
	if name == "" {
		name = s.Release.val
	}
	return jetstream.Config{
		Name: name, Log: w.log,
		Dir: s.DataDir.val, Sync: s.NatsSync.val == "always", Listen: s.NatsListen.val,
		URL: s.NatsURL.val, Replicas: s.NatsReplicas.val, Credentials: s.NatsCredentials.val,
		User: s.NatsUser.val, Password: s.NatsPassword.val, CA: s.NatsCa.val, Certificate: s.NatsCert.val, Key: s.NatsKey.val,
		MaxData:  int(s.AsyncMaxBody.val) + messageHead,
		MaxBytes: s.maxStore(), MaxLane: int64(s.AsyncMaxCalls.val), LetterBytes: s.maxStore() / 4,
		Window: s.AsyncWindow.val,
	}
}

// messageHead is what a call may have beside its body: a request's header and
// path, and what a dead letter says of it.
const messageHead = maxHeaderBytes + 64<<10

func (w *weir) queueConfig(store queue.Store) queue.Config {
	s := w.settings
	config := queue.Config{
		Store: store, Fleet: w.fleet, Log: w.log, Share: w.share,
		MaxAge: s.AsyncMaxAge.val, MaxRun: s.AsyncMaxTime.val, Window: s.AsyncWindow.val,
		ResultKeep: s.AsyncResultTime.val, ResultSize: s.AsyncResultSize.val,
		Callbacks: queue.CallbackConfig{
			Allow: list(s.CallbackAllow.val), Own: w.ownHosts(), Namespace: w.namespace,
			Timeout: s.CallbackTimeout.val, MaxBody: s.CallbackMaxBody.val,
		},
	}
	config.Callbacks.Retry.Attempts = s.CallbackAttempts.val
	if config.ResultSize == 0 {
		config.ResultSize = -1 // none; 0 would be the default
	}
	return config
}

// share is this weir's place among those that serve together.
func (w *weir) share() (rank, weirs int) {
	if p, ok := w.provider.(interface{ Share() (int, int) }); ok {
		return p.Share()
	}
	return 0, 1
}

// ownHosts are the names and addresses by which functions and clients call weir.
func (w *weir) ownHosts() []string {
	s := w.settings
	own := list(s.Hosts.val)
	address := s.Listen.val
	if w.listener != nil {
		address = w.listener.Addr().String()
	}
	host, port, _ := net.SplitHostPort(address)
	hosts := append([]string{"localhost", "127.0.0.1", "::1"}, addressesOf(host)...)
	if name, err := os.Hostname(); err == nil {
		hosts = append(hosts, strings.ToLower(name))
	}
	for _, host := range hosts {
		own = append(own, net.JoinHostPort(host, port))
	}
	slices.Sort(own)
	return slices.Compact(own)
}

// addressesOf are the addresses at which one listens that listens at host.
func addressesOf(host string) (all []string) {
	ip, err := netip.ParseAddr(host)
	if host != "" && (err != nil || !ip.IsUnspecified()) {
		return []string{host}
	}
	local, _ := net.InterfaceAddrs() // without them callbacks there are refused
	for _, a := range local {
		if n, ok := a.(*net.IPNet); ok {
			all = append(all, n.IP.String())
		}
	}
	return all
}

// list is what stands between commas.
func list(text string) (all []string) {
	for one := range strings.SplitSeq(text, ",") {
		if one = strings.TrimSpace(one); one != "" {
			all = append(all, one)
		}
	}
	return all
}
