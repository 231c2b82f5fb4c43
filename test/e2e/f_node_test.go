package e2e

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"os/exec"
	"testing"
	"time"
)

// The API server is away for a while: who is awake is served as ever, and who
// sleeps wakes when it is back.
func TestAPIServerAwayUnderLoad(t *testing.T) {
	r := faultyRelease(t)
	const pods = 2
	sleeper := r.deploy(t, zero("sleeper", nil))
	sleeper.asleep(t)
	weirs := urls(r.weirs(t, 2))
	f, l, mark := underLoad(t, r, keepsAwake("warm", pods), weirs...)
	for range long(1, 3) {
		sleeperMark := r.c.mark(t)
		back := r.c.down(t, "apiserver", 6*time.Second)
		eventually(t, "the API server is away", r.c.away)
		begin := time.Now()
		woken := fire(t, load{URLs: weirs, Clients: 20, N: 20, Next: steadyShot(sleeper.path())})
		l.after(t, 100) // served while it is away
		served := time.Since(begin)
		res := woken.wait()
		returned := <-back
		res.clean(t, "calls that came to a sleeping function while the API server was away")
		written := sleeper.writtenFromZero(t, sleeperMark)
		var created time.Time
		if pods, err := sleeper.pods(); err == nil && len(pods) == 1 {
			created = pods[0].Metadata.CreationTimestamp
		}
		measured.add("API server killed, started after 6 s: 100 calls of an awake function meanwhile; it answers; the Scale write for a sleeping one; its pod is created (whole s); its calls are answered",
			fmt.Sprintf("%s; after %s; %s; %s; %s", ms(served), ms(returned.Sub(begin)), ms(written.Sub(begin)), ms(created.Sub(begin)), ms(res.End.Sub(begin))), "all 200, 1 write from 0")
		sleeper.scale(t, 0)
		sleeper.asleep(t)
	}
	decides, _ := r.sides(t)
	eventually(t, "decisions are made again", func() error {
		s, err := decides.scaling(f.name)
		if err == nil && (!s.Leading || s.Reason == "") {
			err = errors.New("not leading")
		}
		return err
	})
	l.after(t, 100)
	res := l.stop()
	res.clean(t, "API server restart")
	f.calm(t, mark, pods, pods, pods+3)
	measured.add("API server killed and away under load", res.counts(verdict{}), "0 lost")
}

// down kills a program of the node and starts it again after a while. The
// channel tells when it answered.
func (c *cluster) down(t *testing.T, what string, long time.Duration) <-chan time.Time {
	t.Helper()
	tool, err := program("cluster")
	if err != nil {
		t.Fatal(err)
	}
	back := make(chan time.Time, 1)
	go func() {
		if out, err := exec.Command(tool, "fault", "-dir", c.dir, "-down", long.String(), what+"-restart").CombinedOutput(); err != nil {
			t.Errorf("cluster fault %s-restart: %v\n%s", what, err, out)
		}
		back <- time.Now()
	}()
	return back
}

// away is no error while the API server does not answer.
func (c *cluster) away() error {
	u, err := url.Parse(c.server)
	if err != nil {
		return err
	}
	conn, err := net.DialTimeout("tcp", u.Host, time.Second)
	if err != nil {
		return nil
	}
	conn.Close()
	return errors.New("it takes connections")
}

// writtenFromZero is when weir wrote to wake a function that slept at mark. It must
// have done so once.
func (f *function) writtenFromZero(t *testing.T, mark int64) (at time.Time) {
	t.Helper()
	n := 0
	for _, w := range f.explained(t, mark, 0, 0, 20) {
		t.Log(w)
		if w.Done && w.Old == 0 && w.New > 0 {
			n, at = n+1, w.RequestReceivedTimestamp
		}
	}
	if n != 1 {
		t.Errorf("%d writes from zero, want 1", n)
	}
	return at
}

// The node's own programs are killed: nothing that runs notices, and a wake
// waits for them.
func TestNodeProgramsKilledUnderLoad(t *testing.T) {
	r := faultyRelease(t)
	const pods = 2
	sleeper := r.deploy(t, zero("sleeper", nil))
	sleeper.asleep(t)
	weirs := urls(r.weirs(t, 2))
	f, l, mark := underLoad(t, r, keepsAwake("unmoved", pods), weirs...)
	for _, name := range long([]string{"kubelet", "containerd"}, []string{"kubelet", "containerd", "controller-manager", "scheduler", "proxy"}) {
		sleeperMark := r.c.mark(t)
		back := r.c.down(t, name, 3*time.Second)
		time.Sleep(time.Second) // so that it is down, and what follows comes meanwhile
		woken := fire(t, load{URLs: weirs, Clients: 10, N: 10, Next: steadyShot(sleeper.path())}).wait()
		<-back
		woken.clean(t, "calls that came to a sleeping function while "+name+" was away")
		sleeper.writtenFromZero(t, sleeperMark)
		measured.add(name+" away for 3 s: calls of a sleeping function waited at most", ms(quantile(woken.Took, 1)), "all 200, 1 write from 0")
		sleeper.scale(t, 0)
		sleeper.asleep(t)
		l.after(t, 100)
	}
	res := l.stop()
	res.clean(t, "restarts of the node's programs")
	f.calm(t, mark, pods, pods, pods+3)
	if n, err := f.restarts(); err != nil || n != 0 {
		t.Errorf("%d restarts of the function, %v", n, err)
	}
	measured.add("kubelet and containerd killed under load", res.counts(verdict{}), "0 lost")
}
