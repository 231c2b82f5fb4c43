package kube

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/http"
	"runtime"
	"sync"
	"time"

	utilnet "k8s.io/apimachinery/pkg/util/net"
	appsclient "k8s.io/client-go/kubernetes/typed/apps/v1"
	autoscalingclient "k8s.io/client-go/kubernetes/typed/autoscaling/v2"
	coordinationclient "k8s.io/client-go/kubernetes/typed/coordination/v1"
	coreclient "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/klog/v2"
)

// How many calls a second may be made, and how many at once beyond that. Reads
// have no bound of the kind: they are as many as there are watches. Each kind
// of write has its own, so that a wake never stands in line behind an Event.
const (
	// A burst of 200 sleeping functions is woken without waiting; whatever
	// goes wrong, the API server gets no more than 50 writes a second of us.
	scaleQPS, scaleBurst = 50, 200
	// Events and deletion costs may be late.
	choreQPS, choreBurst = 50, 100
)

// api is the API server by what is asked of it.
type api struct {
	// apps, core, autoscaling and leases read and watch.
	apps        appsclient.AppsV1Interface
	core        coreclient.CoreV1Interface
	autoscaling autoscalingclient.AutoscalingV2Interface
	leases      coordinationclient.CoordinationV1Interface
	// scales writes replicas, chores what may be late.
	scales appsclient.AppsV1Interface
	chores coreclient.CoreV1Interface

	transport http.RoundTripper
}

func (a *api) close() { utilnet.CloseIdleConnectionsFor(a.transport) }

// connect reads the configuration, as often as that takes. It returns nil when
// ctx ends before.
func (p *Provider) connect(ctx context.Context) *api {
	var pause backoff
	for {
		a, err := p.clients()
		p.said.about("configuration", "No access to Kubernetes is configured", err)
		if err == nil {
			return a
		}
		if !pause.wait(ctx) {
			return nil
		}
	}
}

func (p *Provider) clients() (*api, error) {
	cfg, err := restConfig(p.cfg.Kubeconfig)
	if err != nil {
		return nil, err
	}
	cfg.UserAgent = fmt.Sprintf("weir/%s (%s/%s)", p.cfg.Version, runtime.GOOS, runtime.GOARCH)
	cfg.ContentType = "application/vnd.kubernetes.protobuf"
	cfg.AcceptContentTypes = "application/vnd.kubernetes.protobuf,application/json"
	cfg.WarningHandler = rest.NoWarnings{}
	client, err := rest.HTTPClientFor(cfg)
	if err != nil {
		return nil, fmt.Errorf("TLS of the API server: %w", err)
	}
	paced := func(qps float32, burst int) *rest.Config {
		c := rest.CopyConfig(cfg)
		c.QPS, c.Burst = qps, burst
		return c
	}
	reads, scales, chores := paced(-1, 0), paced(scaleQPS, scaleBurst), paced(choreQPS, choreBurst)
	a := &api{transport: client.Transport}
	var faults [6]error
	a.apps, faults[0] = appsclient.NewForConfigAndClient(reads, client)
	a.core, faults[1] = coreclient.NewForConfigAndClient(reads, client)
	a.autoscaling, faults[2] = autoscalingclient.NewForConfigAndClient(reads, client)
	a.leases, faults[3] = coordinationclient.NewForConfigAndClient(reads, client)
	a.scales, faults[4] = appsclient.NewForConfigAndClient(scales, client)
	a.chores, faults[5] = coreclient.NewForConfigAndClient(chores, client)
	return a, errors.Join(faults[:]...)
}

func restConfig(kubeconfig string) (*rest.Config, error) {
	if kubeconfig == "" {
		cfg, err := rest.InClusterConfig()
		if errors.Is(err, rest.ErrNotInCluster) {
			return nil, errors.New("this is not a pod of a cluster, and no kubeconfig is given: set WEIR_KUBECONFIG to one, or WEIR_PROVIDER=local to do without Kubernetes")
		}
		if errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("the pod has no service account token: %w: leave automountServiceAccountToken on for weir's pod", err)
		}
		return cfg, err
	}
	cfg, err := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(
		&clientcmd.ClientConfigLoadingRules{ExplicitPath: kubeconfig}, &clientcmd.ConfigOverrides{}).ClientConfig()
	if err != nil {
		return nil, fmt.Errorf("kubeconfig %s: %w: WEIR_KUBECONFIG names the file", kubeconfig, err)
	}
	return cfg, nil
}

var quietOnce sync.Once

// quiet has what client-go logs by itself come out as our debug lines: what
// matters of it, this package says in its own words. klog has one logger for
// all, which may not be changed while it is used.
func quiet(log *slog.Logger) {
	quietOnce.Do(func() { klog.SetSlogLogger(slog.New(demoted{log.Handler()})) })
}

// demoted logs everything for debugging.
type demoted struct{ slog.Handler }

func (d demoted) Enabled(ctx context.Context, _ slog.Level) bool {
	return d.Handler.Enabled(ctx, slog.LevelDebug)
}

func (d demoted) Handle(ctx context.Context, r slog.Record) error {
	r.Level = slog.LevelDebug
	if !d.Handler.Enabled(ctx, r.Level) {
		return nil // klog's errors do not ask
	}
	return d.Handler.Handle(ctx, r)
}

func (d demoted) WithAttrs(attrs []slog.Attr) slog.Handler {
	return demoted{d.Handler.WithAttrs(attrs)}
}

func (d demoted) WithGroup(name string) slog.Handler { return demoted{d.Handler.WithGroup(name)} }

// backoff paces tries: 200 ms, doubling to 5 s, each up to a half more. It ends
// no higher, for what waits at the other end are people's requests.
type backoff struct{ last time.Duration }

// wait returns false when ctx ended first.
func (b *backoff) wait(ctx context.Context) bool {
	b.last = min(max(2*b.last, 200*time.Millisecond), 5*time.Second)
	timer := time.NewTimer(b.last + jitter(b.last/2))
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}
