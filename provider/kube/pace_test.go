package kube

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/weir-run/weir/function"
)

// However many functions are to be woken, again and again: an API server that
// cannot do it is asked 50 times a second and no more.
func TestWritesToASickAPIServerAreBounded(t *testing.T) {
	const functions, burst, enough = 1000, 200, 300
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var asked atomic.Int64
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if asked.Add(1) == enough {
			cancel()
		}
		http.Error(w, "etcd is away", http.StatusInternalServerError)
	}))
	defer server.Close()
	kubeconfig := filepath.Join(t.TempDir(), "kubeconfig")
	text := fmt.Sprintf("apiVersion: v1\nkind: Config\ncurrent-context: c\nclusters: [{name: c, cluster: {server: %q}}]\n"+
		"contexts: [{name: c, context: {cluster: c, user: u}}]\nusers: [{name: u}]\n", server.URL)
	if err := os.WriteFile(kubeconfig, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	p, err := New(Config{Kubeconfig: kubeconfig, Namespace: "ns", Identity: "weir-0"})
	if err != nil {
		t.Fatal(err)
	}
	a, err := p.clients()
	if err != nil {
		t.Fatal(err)
	}
	defer a.close()
	p.api.Store(a)

	begin := time.Now()
	var all sync.WaitGroup
	for i := range functions {
		all.Go(func() {
			for ctx.Err() == nil {
				err := p.write(ctx, target{ref: function.Ref{Name: fmt.Sprintf("f%d", i), Namespace: "ns"}, kind: deployments}, 1)
				if ctx.Err() == nil && !errors.Is(err, function.ErrUnavailable) {
					t.Errorf("f%d: %v, expected %v", i, err, function.ErrUnavailable)
					return
				}
				time.Sleep(100 * time.Millisecond)
			}
		})
	}
	all.Wait()
	// Twice, for the limiter takes the clocks of those who ask as they come, and
	// counts time again where one without CPU read its own long before. The
	// functions would ask 10,000 times a second.
	if n, most := asked.Load(), 2*(burst+50*time.Since(begin).Seconds()); float64(n) > most || n < enough {
		t.Errorf("asked %d times in %v, expected at least %d and at most %.0f", n, time.Since(begin), enough, most)
	} else {
		t.Logf("asked %d times in %v for %d functions", n, time.Since(begin), functions)
	}
}
