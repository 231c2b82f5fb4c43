package kube

import (
	"context"
	"errors"
	"fmt"
	"math"
	"sync"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	autoscalingv1 "k8s.io/api/autoscaling/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/weir-run/weir/function"
)

const (
	// writeTimeout bounds one call that reads or writes replicas; people wait
	// behind it.
	writeTimeout = 10 * time.Second
	// settleTime bounds for how long a write is made again because the status
	// of the object came between. Each time costs two calls.
	settleTime = 5 * time.Second
	// fieldManager is under whose name the API server notes what we set.
	fieldManager = "weir"
)

// Wake asks for replicas of a function that has none. It writes at once, on
// the version that the watch last saw, and reads only if that is not the
// newest: so of many weirs one write succeeds, and it is from 0.
func (p *Provider) Wake(ctx context.Context, ref function.Ref, replicas int) error {
	if replicas < 1 || replicas > math.MaxInt32 {
		return fmt.Errorf("wake %s: %d replicas: expected 1 or more, in 31 bits", ref, replicas)
	}
	return p.wakes.do(ctx, ref, func() error { return p.wake(ctx, ref, replicas) })
}

func (p *Provider) wake(ctx context.Context, ref function.Ref, replicas int) error {
	t, err := p.view.find(ref)
	for start := time.Now(); err == nil && t.replicas == 0; {
		if err = p.write(ctx, t, replicas); !errors.Is(err, function.ErrConflict) {
			return err
		}
		if time.Since(start) > settleTime {
			return fmt.Errorf("wake %s: %w again and again for %v", ref, function.ErrConflict, settleTime)
		}
		t, err = p.read(ctx, t)
	}
	return err
}

// Scale sets the replicas. A version stays good while the object's spec is as
// it was; that pods came or went in between is settled here.
func (p *Provider) Scale(ctx context.Context, ref function.Ref, replicas int, version string) error {
	if replicas < 0 || replicas > math.MaxInt32 {
		return fmt.Errorf("scale %s: %d replicas: expected 0 or more, in 31 bits", ref, replicas)
	}
	t, err := p.view.find(ref)
	if err != nil {
		return err
	}
	if version == "" {
		t.uid, t.version = "", "" // whatever there is
		return p.write(ctx, t, replicas)
	}
	for start := time.Now(); ; {
		if versionOf(t.uid, t.generation) != version {
			return fmt.Errorf("scale %s: %w since version %s", ref, function.ErrConflict, version)
		}
		if t.replicas == replicas {
			return nil
		}
		err := p.write(ctx, t, replicas)
		if !errors.Is(err, function.ErrConflict) || time.Since(start) > settleTime {
			return err
		}
		if t, err = p.read(ctx, t); err != nil {
			return err
		}
	}
}

// write sets replicas by the Scale subresource; with the target's version only
// if the object still has it.
func (p *Provider) write(ctx context.Context, t target, replicas int) error {
	a := p.api.Load()
	if a == nil {
		return fmt.Errorf("scale %s: %w: not connected", t.ref, function.ErrUnavailable)
	}
	ctx, cancel := context.WithTimeout(ctx, writeTimeout)
	defer cancel()
	scale := &autoscalingv1.Scale{
		ObjectMeta: metav1.ObjectMeta{Name: t.ref.Name, Namespace: t.ref.Namespace, UID: t.uid, ResourceVersion: t.version},
		Spec:       autoscalingv1.ScaleSpec{Replicas: int32(replicas)},
	}
	options := metav1.UpdateOptions{FieldManager: fieldManager}
	what := call{"update", "deployments.apps/scale", t.ref.Namespace}
	var written *autoscalingv1.Scale
	var err error
	if t.kind == statefulSets {
		what.resource = "statefulsets.apps/scale"
		written, err = a.scales.StatefulSets(t.ref.Namespace).UpdateScale(ctx, t.ref.Name, scale, options)
	} else {
		written, err = a.scales.Deployments(t.ref.Namespace).UpdateScale(ctx, t.ref.Name, scale, options)
	}
	p.said.hear(what, err)
	if err != nil {
		return what.explain(err)
	}
	t.uid = written.UID
	p.view.wrote(t, written.ResourceVersion, replicas)
	return nil
}

// read is the target as the API server has it now.
func (p *Provider) read(ctx context.Context, t target) (target, error) {
	a := p.api.Load()
	ctx, cancel := context.WithTimeout(ctx, writeTimeout)
	defer cancel()
	what := call{"get", "deployments.apps", t.ref.Namespace}
	var meta *metav1.ObjectMeta
	var replicas *int32
	var err error
	if t.kind == statefulSets {
		what.resource = "statefulsets.apps"
		var s *appsv1.StatefulSet
		if s, err = a.scales.StatefulSets(t.ref.Namespace).Get(ctx, t.ref.Name, metav1.GetOptions{}); err == nil {
			meta, replicas = &s.ObjectMeta, s.Spec.Replicas
		}
	} else {
		var d *appsv1.Deployment
		if d, err = a.scales.Deployments(t.ref.Namespace).Get(ctx, t.ref.Name, metav1.GetOptions{}); err == nil {
			meta, replicas = &d.ObjectMeta, d.Spec.Replicas
		}
	}
	p.said.hear(what, err)
	if err != nil {
		return target{}, what.explain(err)
	}
	t.uid, t.version, t.generation, t.replicas = meta.UID, meta.ResourceVersion, meta.Generation, 1
	if replicas != nil {
		t.replicas = int(*replicas)
	}
	return t, nil
}

// flights has one of many who ask for the same do it, and the others wait for
// what comes of that.
type flights struct {
	mu     sync.Mutex
	flying map[function.Ref]*flight
}

type flight struct {
	done chan struct{}
	err  error
}

func (f *flights) do(ctx context.Context, ref function.Ref, act func() error) error {
	for {
		mine, own := f.join(ref)
		if own {
			mine.err = act()
			f.mu.Lock()
			delete(f.flying, ref)
			f.mu.Unlock()
			close(mine.done)
			return mine.err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-mine.done:
		}
		// The one who did it may have had less time than we have.
		if mine.err == nil || ctx.Err() != nil || !errors.Is(mine.err, context.Canceled) && !errors.Is(mine.err, context.DeadlineExceeded) {
			return mine.err
		}
	}
}

func (f *flights) join(ref function.Ref) (it *flight, own bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if it = f.flying[ref]; it != nil {
		return it, false
	}
	if f.flying == nil {
		f.flying = map[function.Ref]*flight{}
	}
	it = &flight{done: make(chan struct{})}
	f.flying[ref] = it
	return it, true
}
