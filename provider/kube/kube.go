// Package kube runs functions on Kubernetes: Deployments and StatefulSets that
// their owners marked. It watches them, their pods and the HPAs that move them,
// writes replicas through the Scale subresource, and decides by a Lease which
// of several weirs lowers them. It is the only importer of k8s.io.
//
// No call of the API server is made for a request to a function that is awake.
package kube

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/weir-run/weir/fleet"
)

// Config is what a Provider is told.
type Config struct {
	Log *slog.Logger
	// Kubeconfig is a file; empty is the pod's own service account.
	Kubeconfig string
	// Namespace is weir's own: of the Lease and of the other weirs' pods.
	Namespace string
	// Namespaces hold the functions. Empty is Namespace alone, one "*" is
	// all of the cluster.
	Namespaces []string
	// Identity is the name of weir's own pod, and of this weir in the Lease.
	Identity string
	// Lease is the name of the Lease.
	Lease string
	// Peers is a label selector of the pods of all weirs that serve together,
	// in Namespace, and PeerPort the port of their metrics. An empty selector
	// says that this weir is alone.
	Peers    string
	PeerPort int
	// Version is the program's, for the user agent.
	Version string
}

// DefaultPeerPort is that of weir's metrics.
const DefaultPeerPort = 8082

// everywhere is the namespace of a watch over all of them.
const everywhere = ""

// Provider is the cluster as weir's gateway and autoscaler use it.
type Provider struct {
	cfg    Config
	scopes []string
	said   *complaints
	view   *view
	events *events
	lease  *lease
	peers  *peers
	wakes  flights
	api    atomic.Pointer[api]
}

// New checks the Config. Nothing is read or dialled before Run.
func New(cfg Config) (*Provider, error) {
	cfg.Lease = cmp.Or(cfg.Lease, "weir")
	cfg.PeerPort = cmp.Or(cfg.PeerPort, DefaultPeerPort)
	cfg.Version = cmp.Or(cfg.Version, "unknown")
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Namespace == "" || cfg.Identity == "" {
		return nil, fmt.Errorf("kubernetes: weir's own namespace is %q and its pod's name %q: neither may be empty", cfg.Namespace, cfg.Identity)
	}
	scopes, err := scopesOf(cfg)
	if err != nil {
		return nil, err
	}
	if _, err := labels.Parse(cfg.Peers); err != nil {
		return nil, fmt.Errorf("kubernetes: selector of weir's own pods %q: %w", cfg.Peers, err)
	}
	quiet(cfg.Log)
	p := &Provider{cfg: cfg, scopes: scopes, said: newComplaints(cfg.Log)}
	p.events = newEvents(cfg, p.said)
	p.lease = newLease(cfg, p.said)
	p.peers = newPeers(cfg)
	p.view = newView(cfg.Log, scopes, p.tell)
	p.lease.began = p.view.tellAll
	return p, nil
}

// scopesOf are the namespaces to watch, each once.
func scopesOf(cfg Config) ([]string, error) {
	if len(cfg.Namespaces) == 0 {
		return []string{cfg.Namespace}, nil
	}
	if slices.Contains(cfg.Namespaces, "*") {
		return []string{everywhere}, nil
	}
	var scopes []string
	for _, ns := range cfg.Namespaces {
		if faults := validation.IsDNS1123Label(ns); len(faults) > 0 {
			return nil, fmt.Errorf("kubernetes: namespace %q: %s", ns, strings.Join(faults, "; "))
		}
		if !slices.Contains(scopes, ns) {
			scopes = append(scopes, ns)
		}
	}
	return scopes, nil
}

// Run puts what the cluster holds into f, and every change, until ctx ends. It
// is called once. What cannot be read is said and asked for again; it returns
// an error never.
func (p *Provider) Run(ctx context.Context, f *fleet.Fleet) error {
	a := p.connect(ctx)
	if a == nil {
		return nil
	}
	defer a.close()
	p.view.begin(f)
	p.api.Store(a)

	var all sync.WaitGroup
	for _, s := range p.sources(a) {
		all.Go(func() { s.run(ctx) })
	}
	all.Go(func() { p.lease.run(ctx, a.leases) })
	all.Go(func() { p.events.run(ctx, a.chores) })
	all.Wait()
	return nil
}

// Leads says whether this weir is the one that decides: it holds the Lease, and
// knows who the others are.
func (p *Provider) Leads() bool { return p.lease.held() && p.peers.known() }

// Peers are host:port of the other weirs' metrics.
func (p *Provider) Peers() []string { return p.peers.addresses() }

// Share is this weir's place among those that serve together, from 0, and how
// many they are. All of them count alike.
func (p *Provider) Share() (rank, weirs int) { return p.peers.share() }

// Alone says whether the other weirs are known, and that there is none.
func (p *Provider) Alone() (known, alone bool) {
	return p.peers.known(), len(p.peers.addresses()) == 0
}
