package e2e

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// idler sleeps soon after its last call. While it does not, somebody is in the
// way, or nobody decides.
func idler(name string) fn {
	return fn{Name: name, Replicas: 1, Annotations: map[string]string{"weir/function": "true", "weir/zero": "true", "weir/zero-after": "3s"}}
}

// call calls a function once, for so many milliseconds; the answer's fault, if
// any, comes by the channel.
func (f *function) call(url string, ms int) <-chan error {
	done := make(chan error, 1)
	go func() {
		resp, err := http.Get(fmt.Sprintf("%s%s?ms=%d", url, f.path(), ms))
		if err == nil {
			resp.Body.Close()
			if resp.StatusCode != http.StatusOK {
				err = errors.New(resp.Status)
			}
		}
		done <- err
	}()
	return done
}

// The weir that decides is killed. Its container is started again in its
// place, or its pod is gone for good: the other serves on, somebody decides
// again soon, and nothing is lowered in between that has work.
func TestDeciderKilledUnderLoad(t *testing.T) {
	for _, gone := range long([]bool{true, false}, []bool{true, false, true, false, true, false}) {
		t.Run(map[bool]string{true: "for good", false: "restarted"}[gone], func(t *testing.T) { deciderKilled(t, gone) })
	}
}

func deciderKilled(t *testing.T, gone bool) {
	r := faultyRelease(t)
	const pods = 2
	decides, other := r.sides(t)
	idle := r.deploy(t, idler("idler"))
	idle.up(t, 1)
	openFor := 6 * time.Second
	if gone { // so that it is open still when another decides
		openFor = 15 * time.Second
	}
	openUntil := time.Now().Add(openFor)
	open := idle.call(other.url, int(openFor.Milliseconds()))
	// Three of four clients are at the one that stays: no call of theirs may
	// suffer. The others are at the one that dies, or come by the Service.
	dying := decides.url
	if gone {
		dying = r.service(t, "weir")
	}
	f, l, mark := underLoad(t, r, keepsAwake("steady", pods), other.url, other.url, other.url, dying)

	k := r.c.podKill(t, r.namespace, decides.name)
	if gone {
		r.c.k(t, "-n", r.namespace, "delete", "pod", decides.name, "--force", "--grace-period=0", "--wait=false")
	}
	var took time.Duration
	eventually(t, "somebody decides again", func() error {
		name, err := r.decider()
		if err == nil && gone && name == decides.name {
			return fmt.Errorf("%s has the Lease still", name)
		}
		for _, w := range []weir{other, decides} {
			if err != nil || w.name != name {
				continue
			}
			var s scaling
			if s, err = w.scaling(f.name); err == nil && (!s.Leading || s.Reason == "") {
				err = fmt.Errorf("%s does not decide: %+v", name, s)
			}
		}
		took = time.Since(k.from)
		return err
	})
	if bound := 15 * time.Second; took > bound {
		t.Errorf("decisions were made again after %v, want %v at most", took, bound)
	}
	if err := <-open; err != nil {
		t.Errorf("a long call at the weir that stayed: %v", err)
	}
	idle.asleep(t) // decided by whoever decides now
	for _, w := range idle.explained(t, mark, 1, 0, 1) {
		if w.New == 0 && w.RequestReceivedTimestamp.Before(openUntil) {
			t.Errorf("put to sleep under a call that was open: %v", w)
		}
	}
	r.weirs(t, 2)
	l.after(t, 100)
	res := l.stop()
	v := res.weirKilled(k, func(f failure) bool { return !strings.HasPrefix(f.URL, other.url) })
	v.check(t, "kill -9 of the weir that decides")
	v.retry(t, f, other.url)
	f.calm(t, mark, pods, pods, pods+3)
	measured.add("kill -9 of the deciding weir, "+t.Name()[strings.LastIndex(t.Name(), "/")+1:],
		fmt.Sprintf("decided again after %s; %s", ms(took), res.counts(v)), "15 s, 0 lost")
}

// All weirs are replaced, one after another, under load through their Service.
func TestWeirsReplacedUnderLoad(t *testing.T) {
	r := faultyRelease(t)
	const pods = 2
	f, l, mark := underLoad(t, r, keepsAwake("served", pods), r.service(t, "weir"))
	for i := range long(1, 4) {
		slow := f.call(r.service(t, "weir"), 8_000)
		var kept []<-chan error
		for _, w := range r.weirs(t, 2) {
			kept = append(kept, f.callOnKept(w))
		}
		if i%2 == 0 {
			r.helm(t, "upgrade", fmt.Sprintf("podAnnotations.e2e=update-%d", time.Now().Unix()))
		} else {
			r.c.k(t, "-n", r.namespace, "rollout", "restart", "deployment/weir")
			r.c.k(t, "-n", r.namespace, "rollout", "status", "deployment/weir", "--timeout", patience.String())
		}
		if err := <-slow; err != nil {
			t.Errorf("a long call: %v", err)
		}
		for _, done := range kept {
			if err := <-done; err != nil {
				t.Error(err)
			}
		}
		r.weirs(t, 2)
	}
	l.after(t, 100)
	res := l.stop()
	res.clean(t, "helm upgrade")
	f.calm(t, mark, pods, pods, pods+3)
	measured.add("helm upgrade of both weirs under load", res.counts(verdict{}), "0 lost")
}

// callOnKept calls a weir on one connection, now and then, until nobody is
// there any more. A connection that ends without an answer that said so is a
// fault: what a client sends on it at that moment is lost, and a POST for good.
func (f *function) callOnKept(w weir) <-chan error {
	done := make(chan error, 1)
	go func() {
		for {
			conn, err := net.DialTimeout("tcp", strings.TrimPrefix(w.url, "http://"), 5*time.Second)
			if err != nil {
				done <- nil // it is gone
				return
			}
			if err := f.callOn(conn); err != nil {
				done <- fmt.Errorf("a connection that was kept with %s: %w", w.name, err)
				return
			}
		}
	}()
	return done
}

func (f *function) callOn(conn net.Conn) error {
	defer conn.Close()
	in := bufio.NewReader(conn)
	for n := 0; ; n++ {
		_ = conn.SetDeadline(time.Now().Add(patience))
		if _, err := fmt.Fprintf(conn, "POST %s HTTP/1.1\r\nHost: weir\r\nContent-Length: 5\r\n\r\nhello", f.path()); err != nil && n > 0 {
			return fmt.Errorf("request %d on it: %w", n+1, err)
		}
		resp, err := http.ReadResponse(in, nil)
		if err != nil && n == 0 {
			return nil // it was taken by the kernel and by nobody else
		}
		if err != nil {
			return fmt.Errorf("request %d on it: %w", n+1, err)
		}
		body, err := io.ReadAll(resp.Body)
		if err != nil || resp.StatusCode != http.StatusOK || string(body) != "hello" {
			return fmt.Errorf("request %d on it: %s, %q, %w", n+1, resp.Status, body, err)
		}
		if resp.Close {
			return nil
		}
		time.Sleep(300 * time.Millisecond)
	}
}

// What a weir that cannot be read carries is unknown: nothing is lowered until
// it can be.
func TestUnreadablePeerForbidsShrinking(t *testing.T) {
	r := faultyRelease(t)
	d := idler("apart")
	d.Annotations["weir/zero-after"] = "6s"
	f := r.deploy(t, d)
	f.up(t, 1)
	decides, other := r.sides(t)
	// Nothing is idle in the eyes of who has never read everything.
	looked := map[float64]bool{}
	eventually(t, decides.name+" looks at the function", func() error {
		s, err := decides.scaling(f.name)
		if looked[s.IdleSeconds] = true; err == nil && len(looked) < 4 {
			err = fmt.Errorf("%d looks", len(looked))
		}
		return err
	})
	mark := r.c.mark(t)
	lift := partition(t, decides.ip, other.ip, 8082)
	open := f.call(other.url, 6_000)
	refrains := func() error {
		if n, err := f.replicas(); err == nil && n != 1 {
			t.Fatalf("%d replicas while a weir cannot be read, want 1 still", n)
		}
		s, err := decides.scaling(f.name)
		if err == nil && s.Reason != "peers" {
			err = fmt.Errorf("%s: %s", s.Reason, s.Why)
		}
		return err
	}
	eventually(t, decides.name+" leaves the replicas since it cannot read "+other.name, refrains)
	if err := <-open; err != nil {
		t.Errorf("a call at the weir that cannot be read: %v", err)
	}
	eventually(t, "a decrease is due and not made", refrains)
	for end := time.Now().Add(long(5*time.Second, 30*time.Second)); time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
		if err := refrains(); err != nil {
			t.Fatalf("it was refraining, and now: %v", err)
		}
	}
	for _, w := range f.explained(t, mark, 1, 1, 1) {
		t.Errorf("written meanwhile: %v", w)
	}
	lift()
	f.asleep(t)
	f.explained(t, mark, 1, 0, 1)
}

// partition drops what goes from one address to another's port, and the
// answers, until it is lifted or the test ends.
func partition(t *testing.T, from, to string, port int) (lift func()) {
	t.Helper()
	const table = "weir_e2e_partition"
	rules := fmt.Sprintf(`table inet %s {
  chain apart {
    type filter hook forward priority -10; policy accept;
    ip saddr %s ip daddr %s tcp dport %d drop
    ip saddr %s ip daddr %s tcp dport %d drop
  }
}`, table, from, to, port, to, from, port)
	cmd := exec.Command("nft", "-f", "-")
	cmd.Stdin = strings.NewReader(rules)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("nft: %v: %s", err, out)
	}
	lifted := false
	lift = func() {
		if lifted {
			return
		}
		lifted = true
		if out, err := exec.Command("nft", "delete", "table", "inet", table).CombinedOutput(); err != nil {
			t.Errorf("nft: %v: %s", err, out)
		}
	}
	t.Cleanup(lift)
	return lift
}
