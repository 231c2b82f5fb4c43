package kube

import (
	"context"
	"net"
	"slices"
	"strconv"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
)

// overdue is how long after its time a pod that was told to end is still
// believed to run. One whose node is lost would be for ever, and nothing could
// be lowered meanwhile.
const overdue = 30 * time.Second

// peers are the other weirs.
type peers struct {
	cfg Config
	mu  sync.Mutex
	// all are the pods that run, by name; complete is that they were read.
	all      map[string]peer
	complete bool
}

type peer struct {
	address string
	// until is when it should be gone; zero is not told to go.
	until time.Time
}

func newPeers(cfg Config) *peers { return &peers{cfg: cfg, all: map[string]peer{}} }

// known says whether the others were read. Who does not know them must not
// lower anything.
func (p *peers) known() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.complete || p.cfg.Peers == ""
}

// addresses are of those that run, ready or not: each may have requests.
func (p *peers) addresses() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	var all []string
	for name, peer := range p.all {
		if name != p.cfg.Identity && (peer.until.IsZero() || time.Since(peer.until) < overdue) {
			all = append(all, peer.address)
		}
	}
	slices.Sort(all)
	return all
}

// share is this weir's place, by name, among all that run, and how many they
// are.
func (p *peers) share() (rank, weirs int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	weirs = 1
	for name, peer := range p.all {
		if name == p.cfg.Identity || !peer.until.IsZero() && time.Since(peer.until) >= overdue {
			continue
		}
		weirs++
		if name < p.cfg.Identity {
			rank++
		}
	}
	return rank, weirs
}

// read says what a pod is as a peer, and whether it is one.
func (p *peers) read(pod *corev1.Pod) (it peer, up bool) {
	if pod.Status.PodIP == "" || !running(pod) {
		return peer{}, false
	}
	it.address = net.JoinHostPort(pod.Status.PodIP, strconv.Itoa(p.cfg.PeerPort))
	if pod.DeletionTimestamp != nil {
		it.until = pod.DeletionTimestamp.Time
	}
	return it, true
}

func (p *peers) put(name string, it peer, up bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if up {
		p.all[name] = it
	} else {
		delete(p.all, name)
	}
}

// running says whether a container of the pod runs: one that crashed has no
// requests.
func running(pod *corev1.Pod) bool {
	return pod.Status.Phase == corev1.PodRunning && slices.ContainsFunc(pod.Status.ContainerStatuses,
		func(c corev1.ContainerStatus) bool { return c.State.Running != nil })
}

func (p *peers) drop(name string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.all, name)
}

func (p *peers) keep(names map[object]bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for name := range p.all {
		if !names[object{p.cfg.Namespace, name}] {
			delete(p.all, name)
		}
	}
	p.complete = true
}

// peerPods watches weir's own pods.
func (p *Provider) peerPods(a *api) *source {
	client := a.core.Pods(p.cfg.Namespace)
	mine := func(o metav1.ListOptions) metav1.ListOptions {
		o.LabelSelector, o.FieldSelector = p.cfg.Peers, livePods
		return o
	}
	read := func(pod *corev1.Pod) *digest {
		name := nameOf(pod)
		it, up := p.peers.read(pod)
		return &digest{name, func() { p.peers.put(name.name, it, up) }}
	}
	return &source{
		resource: "pods", namespace: p.cfg.Namespace, said: p.said, of: &corev1.Pod{},
		listPage: pages(func(ctx context.Context, o metav1.ListOptions) (*corev1.PodList, error) {
			return client.List(ctx, mine(o))
		}, podItems, read),
		watchFrom: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
			return client.Watch(ctx, mine(o))
		},
		store: store[corev1.Pod]{
			read: read,
			drop: func(name object) { p.peers.drop(name.name) },
			kept: p.peers.keep,
		},
	}
}
