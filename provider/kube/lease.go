package kube

import (
	"context"
	"log/slog"
	"sync/atomic"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	coordinationclient "k8s.io/client-go/kubernetes/typed/coordination/v1"
	"k8s.io/client-go/tools/leaderelection"
	"k8s.io/client-go/tools/leaderelection/resourcelock"
)

// A weir that decides and dies costs the others at most 14 s without decisions:
// they look every 1.5 to 3.3 s, once to see its last renewal, then until
// leaseDuration has passed since, then once more.
const (
	leaseDuration = 7 * time.Second
	// renewDeadline is how long the holder tries before it gives up, sooner
	// than another may take the Lease.
	renewDeadline = 5 * time.Second
	retryPeriod   = 1500 * time.Millisecond
	// leaseTimeout bounds one call, so that one that hangs is not the last.
	leaseTimeout = 3 * time.Second
)

// lease decides which of several weirs lowers replicas.
type lease struct {
	cfg  Config
	log  *slog.Logger
	said *complaints
	// began is called each time this weir begins to lead. It returns soon.
	began func()
	// term ends when this weir no longer leads; renewed is when it last asked
	// for the Lease and got it, in nanoseconds.
	term    atomic.Pointer[context.Context]
	renewed atomic.Pointer[time.Time]
}

func newLease(cfg Config, said *complaints) *lease { return &lease{cfg: cfg, log: cfg.Log, said: said} }

// held says whether this weir has the Lease now: a process that was halted for
// longer than it lasts has not, though nobody told it yet.
func (l *lease) held() bool {
	term, renewed := l.term.Load(), l.renewed.Load()
	return term != nil && (*term).Err() == nil && renewed != nil && time.Since(*renewed) < leaseDuration
}

// run stands for election until ctx ends, and then gives the Lease back.
func (l *lease) run(ctx context.Context, client coordinationclient.LeasesGetter) {
	for ctx.Err() == nil {
		elector, err := leaderelection.NewLeaderElector(leaderelection.LeaderElectionConfig{
			Lock: &lock{of: l, LeaseLock: &resourcelock.LeaseLock{
				LeaseMeta:  metav1.ObjectMeta{Namespace: l.cfg.Namespace, Name: l.cfg.Lease},
				Client:     client,
				LockConfig: resourcelock.ResourceLockConfig{Identity: l.cfg.Identity},
			}},
			Name:          l.cfg.Lease,
			LeaseDuration: leaseDuration, RenewDeadline: renewDeadline, RetryPeriod: retryPeriod,
			ReleaseOnCancel: true,
			Callbacks: leaderelection.LeaderCallbacks{
				OnStartedLeading: func(term context.Context) {
					if term.Err() != nil {
						return
					}
					l.term.Store(&term)
					l.log.Info("This weir decides", "lease", l.cfg.Lease, "identity", l.cfg.Identity)
					l.began()
				},
				OnStoppedLeading: func() {
					if l.term.Swap(nil) != nil {
						l.log.Info("This weir no longer decides", "lease", l.cfg.Lease)
					}
				},
			},
		})
		if err != nil {
			l.log.Error("The Lease cannot be stood for", "err", err)
			return
		}
		elector.Run(ctx)
	}
}

// lock is client-go's, with a bound on each call, and with our own word on what
// goes wrong.
type lock struct {
	*resourcelock.LeaseLock
	of *lease
}

func (l *lock) Get(ctx context.Context) (*resourcelock.LeaderElectionRecord, []byte, error) {
	ctx, cancel := context.WithTimeout(ctx, leaseTimeout)
	defer cancel()
	record, raw, err := l.LeaseLock.Get(ctx)
	l.hear("get", err)
	return record, raw, err
}

func (l *lock) Create(ctx context.Context, r resourcelock.LeaderElectionRecord) error {
	return l.set(ctx, "create", r, l.LeaseLock.Create)
}

func (l *lock) Update(ctx context.Context, r resourcelock.LeaderElectionRecord) error {
	return l.set(ctx, "update", r, l.LeaseLock.Update)
}

func (l *lock) set(ctx context.Context, verb string, r resourcelock.LeaderElectionRecord, set func(context.Context, resourcelock.LeaderElectionRecord) error) error {
	asked := time.Now()
	ctx, cancel := context.WithTimeout(ctx, leaseTimeout)
	defer cancel()
	err := set(ctx, r)
	l.hear(verb, err)
	if err == nil && r.HolderIdentity == l.Identity() {
		l.of.renewed.Store(&asked)
	}
	return err
}

func (l *lock) hear(verb string, err error) {
	l.of.said.hear(call{verb, "leases.coordination.k8s.io", l.of.cfg.Namespace}, err)
}
