package kube

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/weir-run/weir/function"
)

// lines is a log that can be read while it is written.
type lines struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *lines) all() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Split(strings.TrimSuffix(l.text.String(), "\n"), "\n")
}

// with are the lines that hold all of the parts.
func (l *lines) with(parts ...string) (found []string) {
next:
	for _, line := range l.all() {
		for _, part := range parts {
			if !strings.Contains(line, part) {
				continue next
			}
		}
		found = append(found, line)
	}
	return found
}

var (
	podsOf    = schema.GroupResource{Resource: "pods"}
	errDenied = apierrors.NewForbidden(podsOf, "", errors.New(`user "system:serviceaccount:ns:weir" cannot list resource "pods"`))
	errAway   = fmt.Errorf("dial tcp: %w", syscall.ECONNREFUSED)
)

func TestComplainsOncePerCause(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log lines
		c := newComplaints(slog.New(slog.NewTextHandler(&log, nil)))
		list, watch := call{"list", "pods", "ns"}, call{"watch", "deployments.apps", everywhere}
		expect := func(when string, n int, parts ...string) {
			t.Helper()
			if got := log.with(parts...); len(got) != n {
				t.Errorf("%s: %d lines with %q, expected %d:\n%s", when, len(got), parts, n, strings.Join(log.all(), "\n"))
			}
		}
		for range 50 {
			c.hear(list, errAway)
			c.hear(watch, errAway)
			time.Sleep(5 * time.Second)
		}
		expect("away", 1, "level=WARN", "cannot be asked")
		c.hear(watch, nil)
		c.hear(list, nil)
		expect("back", 1, "level=INFO", "answers again")

		if c.hear(list, errDenied) {
			t.Error("one refusal is believed")
		}
		if c.hear(list, errDenied) {
			t.Error("two refusals at once are believed")
		}
		expect("forbidden for a moment", 0, "denies")
		for range 50 {
			time.Sleep(sureAfter)
			if !c.hear(list, errDenied) {
				t.Error("a refusal that stays is not believed")
			}
			c.hear(watch, nil)
		}
		expect("forbidden", 1, "denies", "list pods in namespace ns", "Role in namespace ns", "may list pods")
		c.hear(call{"list", "pods", everywhere}, errDenied)
		time.Sleep(sureAfter)
		c.hear(call{"list", "pods", everywhere}, errDenied)
		expect("everywhere", 1, "denies", "in all namespaces", "ClusterRole")
		c.hear(list, nil)
		expect("allowed", 1, "Allowed now", "list pods in namespace ns")

		// What comes and goes is said once a minute at most, and is said.
		before := len(log.with("cannot be asked"))
		for range 600 {
			c.hear(list, errAway)
			c.hear(watch, nil)
			time.Sleep(time.Second)
		}
		if n := len(log.with("cannot be asked")) - before; n < 9 || n > 11 {
			t.Errorf("in ten minutes of coming and going it was said %d times, expected once a minute", n)
		}
		c.hear(list, errAway)
		time.Sleep(2 * repeatAfter)
		c.hear(list, errAway)
		if last := log.all()[len(log.all())-1]; !strings.Contains(last, "cannot be asked") {
			t.Errorf("it stays away after it came and went, and the last word is: %s", last)
		}
		n := len(log.all())
		for _, err := range []error{context.Canceled, apierrors.NewConflict(podsOf, "x", errors.New("y")), apierrors.NewResourceExpired("z")} {
			c.hear(call{"update", "x", "ns"}, err)
		}
		c.hear(call{"update", "x", "ns"}, apierrors.NewNotFound(podsOf, "x"))
		for _, line := range log.all()[n:] {
			if strings.Contains(line, "WARN") {
				t.Errorf("said of an answer: %s", line)
			}
		}
	})
}

func TestExplain(t *testing.T) {
	c := call{"update", "deployments.apps/scale", "ns"}
	for _, x := range []struct {
		err, want error
		parts     []string
	}{
		{nil, nil, nil},
		{apierrors.NewForbidden(podsOf, "", errors.New("cannot update")), function.ErrForbidden, []string{"update deployments.apps/scale in namespace ns", "cannot update", "Role in namespace ns that may update"}},
		{apierrors.NewUnauthorized("bad token"), function.ErrForbidden, []string{"token"}},
		{apierrors.NewNotFound(podsOf, "x"), function.ErrNotFound, []string{"ns"}},
		{apierrors.NewConflict(podsOf, "x", errors.New("newer")), function.ErrConflict, []string{"newer"}},
		{apierrors.NewTooManyRequests("later", 1), function.ErrUnavailable, []string{"later"}},
		{apierrors.NewInternalError(errors.New("etcd")), function.ErrUnavailable, []string{"etcd"}},
		{errAway, function.ErrUnavailable, []string{"refused"}},
		{context.DeadlineExceeded, function.ErrUnavailable, []string{"deadline"}},
	} {
		got := c.explain(x.err)
		if !errors.Is(got, x.want) {
			t.Errorf("%v is explained as %v, expected %v", x.err, got, x.want)
		}
		for _, part := range x.parts {
			if !strings.Contains(got.Error(), part) {
				t.Errorf("%q does not say %q", got, part)
			}
		}
	}
	if err := c.explain(apierrors.NewBadRequest("nonsense")); err == nil || errors.Is(err, function.ErrUnavailable) {
		t.Errorf("a bad request is %v, which will not pass by itself", err)
	}
}

func TestBackoff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var b backoff
		for _, most := range []time.Duration{300, 600, 1200, 2400, 4800, 7500, 7500, 7500} {
			start := time.Now()
			if !b.wait(t.Context()) {
				t.Fatal("ended")
			}
			if took, most := time.Since(start), most*time.Millisecond; took < most*2/3 || took > most {
				t.Errorf("waited %v, expected %v to %v", took, most*2/3, most)
			}
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if start := time.Now(); b.wait(ctx) || time.Since(start) > 0 {
			t.Error("waited for what had ended")
		}
	})
}

func TestOneOfManyFlies(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var f flights
		ref, other := function.Ref{Name: "a", Namespace: "ns"}, function.Ref{Name: "b", Namespace: "ns"}
		var acts atomic.Int32
		fault := errors.New("fault")
		var all sync.WaitGroup
		for range 100 {
			all.Go(func() {
				if err := f.do(t.Context(), ref, func() error { acts.Add(1); time.Sleep(time.Second); return fault }); err != fault {
					t.Errorf("got %v", err)
				}
			})
		}
		synctest.Wait()
		// Another function does not wait for it, nor one who has no time.
		start := time.Now()
		if err := f.do(t.Context(), other, func() error { return nil }); err != nil || time.Since(start) > 0 {
			t.Errorf("another function: %v after %v", err, time.Since(start))
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		defer cancel()
		if err := f.do(ctx, ref, func() error { t.Error("flew twice"); return nil }); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("one without time: %v", err)
		}
		all.Wait()
		if acts.Load() != 1 {
			t.Errorf("done %d times", acts.Load())
		}

		// Who waits for one whose time ends does it with its own.
		short, stop := context.WithTimeout(t.Context(), time.Second)
		defer stop()
		all.Go(func() {
			f.do(short, ref, func() error { <-short.Done(); return fmt.Errorf("write: %w", short.Err()) })
		})
		synctest.Wait()
		if err := f.do(t.Context(), ref, func() error { return nil }); err != nil {
			t.Errorf("after another's time ended: %v", err)
		}
		all.Wait()
		if len(f.flying) != 0 {
			t.Errorf("%d are kept", len(f.flying))
		}
	})
}
