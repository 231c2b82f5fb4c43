package jetstream

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/weir-run/weir/queue"
	"github.com/weir-run/weir/test/programtest"
)

var natsServerDir string

// natsServer is the real program.
var natsServer = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "nats-server")
	if err != nil {
		return "", err
	}
	natsServerDir = dir
	path := filepath.Join(dir, "nats-server")
	out, err := exec.Command("go", "build", "-o", path, "github.com/nats-io/nats-server/v2").CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("%w: %s", err, out)
	}
	return path, nil
})

type outside struct {
	t      testing.TB
	config string
	url    string
	cmd    *exec.Cmd
}

// startOutside starts a server of its own, whose configuration has more.
func startOutside(t testing.TB, more string) *outside {
	t.Helper()
	dir, client := t.TempDir(), programtest.FreePort(t)
	o := &outside{t: t, config: filepath.Join(dir, "nats.conf"), url: fmt.Sprintf("nats://127.0.0.1:%d", client)}
	text := fmt.Sprintf("listen: 127.0.0.1:%d\nserver_name: n%d\njetstream { store_dir: %q, max_file_store: 1TB }\n%s\n", client, client, dir, more)
	if strings.Contains(more, "no jetstream") {
		text = fmt.Sprintf("listen: 127.0.0.1:%d\n", client)
	}
	if err := os.WriteFile(o.config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	o.start()
	t.Cleanup(o.kill)
	return o
}

func (o *outside) start() {
	o.t.Helper()
	path, err := natsServer()
	if err != nil {
		o.t.Fatal(err)
	}
	o.cmd = exec.Command(path, "-c", o.config)
	log, err := o.cmd.StderrPipe()
	if err != nil {
		o.t.Fatal(err)
	}
	if err := o.cmd.Start(); err != nil {
		o.t.Fatal(err)
	}
	ready := make(chan bool, 1)
	go func() {
		for in := bufio.NewScanner(log); in.Scan(); {
			if strings.Contains(in.Text(), "Server is ready") {
				ready <- true
			}
		}
		close(ready)
	}()
	select {
	case ok := <-ready:
		if !ok {
			o.t.Fatalf("nats-server ended: %s", o.config)
		}
	case <-time.After(60 * time.Second):
		o.t.Fatal("nats-server is not ready")
	}
}

func (o *outside) kill() {
	if o.cmd != nil {
		o.cmd.Process.Kill()
		o.cmd.Wait()
		o.cmd = nil
	}
}

func openAt(t testing.TB, cfg Config) *Store {
	t.Helper()
	cfg.Log = testLog(t)
	var s *Store
	until(t, "the servers take it", func() bool {
		var err error
		if s, err = Open(t.Context(), cfg); err != nil && !errors.Is(err, queue.ErrAway) {
			t.Fatal(err)
		}
		return err == nil
	})
	t.Cleanup(func() { s.Close() })
	return s
}

// load puts and works off until stop is closed; sent was acknowledged by Put,
// done by Ack.
func load(t testing.TB, stop <-chan struct{}, stores ...*Store) (sent, done *ledger, wait func()) {
	sent, done = &ledger{}, &ledger{}
	ctx, cancel := context.WithCancel(context.Background())
	var group sync.WaitGroup
	for n, s := range stores {
		for worker := range 8 {
			group.Go(func() {
				for i := 0; ctx.Err() == nil; i++ {
					text := fmt.Sprintf("%d.%d.%d", n, worker, i)
					if _, _, err := s.Put(ctx, lane, []byte(text), ""); err == nil {
						sent.note(text)
					} else if !errors.Is(err, queue.ErrAway) {
						t.Errorf("put: %v", err)
					}
				}
			})
		}
		group.Go(func() {
			for ctx.Err() == nil {
				all, _ := s.Fetch(ctx, lane, 20, 500*time.Millisecond)
				for _, d := range all {
					// Before: an acknowledgement whose answer is lost may hold.
					done.note(string(d.Item().Data))
					_ = d.Ack(ctx)
				}
			}
		})
	}
	go func() { <-stop; cancel() }()
	return sent, done, group.Wait
}

// nothingIsLost works off what is left.
func nothingIsLost(t testing.TB, s *Store, sent, done *ledger) {
	t.Helper()
	until(t, "the lane is empty", func() bool {
		all, err := s.Fetch(t.Context(), lane, 500, time.Second)
		for _, d := range all {
			done.note(string(d.Item().Data))
			d.Ack(t.Context())
		}
		left, err2 := s.Backlogs(t.Context())
		return err == nil && err2 == nil && len(all) == 0 && left[lane].Items == 0
	})
	for text := range sent.has {
		if !done.has[text] {
			t.Errorf("%s was acknowledged and is lost", text)
		}
	}
	t.Logf("%d put, %d worked off", len(sent.has), len(done.has))
}

func TestAnExternalServerIsKilledUnderLoad(t *testing.T) {
	o := startOutside(t, "")
	s := openAt(t, Config{URL: o.url, Lease: 3 * time.Second})
	stop := make(chan struct{})
	sent, done, wait := load(t, stop, s)
	for round := range 3 {
		want := sent.size() + 500
		until(t, fmt.Sprintf("500 more are put in round %d", round), func() bool { return sent.size() >= want })
		o.kill()
		o.start()
	}
	want := sent.size() + 500
	until(t, "500 more are put at the end", func() bool { return sent.size() >= want })
	close(stop)
	wait()
	nothingIsLost(t, s, sent, done)
}

// A server that is killed forgets deliveries, which it writes down ten times a
// second: whether an item was delivered before is not known of any that was there.
func TestAKilledServerForgetsDeliveries(t *testing.T) {
	o := startOutside(t, "")
	s := openAt(t, Config{URL: o.url, Lease: 2 * time.Second})
	const n = 20
	fetched := func(what string, times func(int) bool) {
		t.Helper()
		seen := 0
		until(t, "all are delivered "+what, func() bool {
			got, _ := s.Fetch(t.Context(), lane, 3, time.Second) // a few: it writes the first of them down
			for _, d := range got {
				if seen++; !times(d.Times()) {
					t.Errorf("%s: item %d is delivered for the %d. time", what, d.Item().Seq, d.Times())
				}
			}
			return seen >= n
		})
	}
	for range n {
		if _, _, err := s.Put(t.Context(), lane, []byte("x"), ""); err != nil {
			t.Fatal(err)
		}
	}
	fetched("at first", func(times int) bool { return times == 1 })
	for _, what := range []string{"after a kill", "after another one"} {
		o.kill()
		o.start()
		fetched(what, func(times int) bool { return times > 1 })
	}
	s.Close()
	o.kill()
	o.start()
	s = openAt(t, Config{URL: o.url, Lease: 2 * time.Second})
	fetched("to the next weir", func(times int) bool { return times > 1 })
	var fresh uint64
	until(t, "one more is put", func() (ok bool) {
		var err error
		fresh, _, err = s.Put(t.Context(), lane, []byte("x"), "")
		return err == nil
	})
	until(t, "what came later is delivered as new", func() bool {
		got, _ := s.Fetch(t.Context(), lane, 2*n, time.Second)
		for _, d := range got {
			if d.Item().Seq == fresh {
				return d.Times() == 1
			}
		}
		return false
	})
}

func TestOneOfThreeServersIsKilledUnderLoad(t *testing.T) {
	var routes []string
	var ports []int
	for range 3 {
		ports = append(ports, programtest.FreePort(t))
		routes = append(routes, fmt.Sprintf("nats://127.0.0.1:%d", ports[len(ports)-1]))
	}
	var servers []*outside
	var urls []string
	for i := range 3 {
		servers = append(servers, startOutside(t, fmt.Sprintf("cluster { name: c, listen: 127.0.0.1:%d, routes: [%s] }", ports[i], strings.Join(routes, ", "))))
		urls = append(urls, servers[i].url)
	}
	var stores []*Store
	for range 2 {
		stores = append(stores, openAt(t, Config{URL: strings.Join(urls, ","), Replicas: 3, Lease: 3 * time.Second}))
	}
	one, _ := stores[0].Secret(t.Context())
	if two, err := stores[1].Secret(t.Context()); err != nil || one != two {
		t.Fatalf("two secrets: %v", err)
	}
	stop := make(chan struct{})
	sent, done, wait := load(t, stop, stores...)
	for round := range 2 {
		want := sent.size() + 300
		until(t, fmt.Sprintf("300 more are put in round %d", round), func() bool { return sent.size() >= want })
		o := servers[leader(t, stores[0], servers)]
		o.kill()
		want = sent.size() + 300
		until(t, "300 more are put on two servers", func() bool { return sent.size() >= want })
		o.start()
		until(t, "the server is back in all groups", func() bool { return current(t, stores[0]) })
	}
	close(stop)
	wait()
	nothingIsLost(t, stores[0], sent, done)
}

// leader is the server that answers for the queue.
func leader(t testing.TB, s *Store, servers []*outside) (n int) {
	until(t, "there is a leader", func() bool {
		ctx, cancel := bounded(t.Context())
		defer cancel()
		info, err := s.queue.Info(ctx)
		if err != nil || info.Cluster == nil {
			return false
		}
		n = slices.IndexFunc(servers, func(o *outside) bool {
			return strings.HasSuffix(o.url, ":"+strings.TrimPrefix(info.Cluster.Leader, "n"))
		})
		return n >= 0
	})
	return n
}

// current says whether all replicas of the queue have all of it.
func current(t testing.TB, s *Store) bool {
	ctx, cancel := bounded(t.Context())
	defer cancel()
	info, err := s.queue.Info(ctx)
	if err != nil || info.Cluster == nil || info.Cluster.Leader == "" || len(info.Cluster.Replicas) != 2 {
		return false
	}
	for _, r := range info.Cluster.Replicas {
		if !r.Current || r.Offline {
			return false
		}
	}
	return true
}

func TestAPutWhoseAnswerWasLostIsStoredOnce(t *testing.T) {
	o := startOutside(t, "")
	s := openAt(t, Config{URL: o.url})
	// A proxy that swallows what the server says, once.
	front, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer front.Close()
	var deaf sync.Map
	go func() {
		for {
			c, err := front.Accept()
			if err != nil {
				return
			}
			up, err := net.Dial("tcp", strings.TrimPrefix(o.url, "nats://"))
			if err != nil {
				c.Close()
				continue
			}
			go copyUntil(up, c, nil)
			go copyUntil(c, up, &deaf)
		}
	}()
	through := openAt(t, Config{URL: "nats://" + front.Addr().String()})
	deaf.Store("now", true)
	time.AfterFunc(time.Second, func() { deaf.Delete("now") })
	first, dup, err := through.Put(t.Context(), lane, []byte("x"), "")
	if err != nil || dup {
		t.Fatal(dup, err)
	}
	if b := backlog(t, s, lane); b.Items != 1 {
		t.Fatalf("stored %d times", b.Items)
	}
	if d := take(t, s, lane, 1)[0]; d.Item().Seq != first {
		t.Fatalf("place %d, told %d", d.Item().Seq, first)
	}
}

// copyUntil copies, and throws away what comes while deaf has "now".
func copyUntil(to, from net.Conn, deaf *sync.Map) {
	defer to.Close()
	defer from.Close()
	buf := make([]byte, 64<<10)
	for {
		n, err := from.Read(buf)
		if deaf != nil {
			if _, now := deaf.Load("now"); now {
				// Whole lines are lost only if the connection is too.
				if n > 0 {
					return
				}
			}
		}
		if n > 0 {
			if _, err := to.Write(buf[:n]); err != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}

func TestOpenSaysWhatIsWrong(t *testing.T) {
	plain := startOutside(t, "")
	none := startOutside(t, "no jetstream")
	locked := startOutside(t, `authorization { users = [
		{ user: weir, password: secret }
		{ user: guest, password: guest, permissions: { publish: ["$JS.API.INFO"], subscribe: ["_INBOX.>"] } } ] }`)
	ca := newCA(t)
	tls := startOutside(t, fmt.Sprintf("tls { cert_file: %q, key_file: %q, ca_file: %q, verify: true }", ca.cert("server"), ca.key("server"), ca.file))
	secure := strings.Replace(tls.url, "nats://", "tls://", 1)
	other := newCA(t)
	junk := filepath.Join(t.TempDir(), "junk")
	if err := os.WriteFile(junk, []byte("functions: {}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	nonce := startOutside(t, "authorization { users = [ { nkey: UC6NLCN7AS34YOJVCYD4PJ3QB7QGLYG5B5IMBT25VW5K4TNUJODM7BOX } ] }")
	for _, test := range []struct {
		name string
		cfg  Config
		want []string // nothing: it opens
		away bool
	}{
		{"plain", Config{URL: plain.url}, nil, false},
		{"nobody there", Config{URL: fmt.Sprintf("nats://127.0.0.1:%d", programtest.FreePort(t))}, []string{"no servers"}, true},
		{"no JetStream", Config{URL: none.url}, []string{"-js"}, false},
		{"replicas alone", Config{URL: plain.url, Replicas: 3, Name: "three"}, []string{"3 replicas", "cluster"}, false},
		{"no user", Config{URL: locked.url}, []string{"credentials"}, false},
		{"wrong password", Config{URL: locked.url, User: "weir", Password: "x"}, []string{"credentials"}, false},
		{"user", Config{URL: locked.url, User: "weir", Password: "secret"}, nil, false},
		{"user in the URL", Config{URL: strings.Replace(locked.url, "://", "://weir:secret@", 1)}, nil, false},
		{"no rights", Config{URL: locked.url, User: "guest", Password: "guest"}, []string{"allow", "$JS.API.>"}, false},
		{"unknown CA", Config{URL: secure}, []string{"CA"}, false},
		{"another CA", Config{URL: secure, CA: other.file, Certificate: ca.cert("client"), Key: ca.key("client")}, []string{"CA"}, false},
		{"no client certificate", Config{URL: secure, CA: ca.file}, []string{"client certificate"}, false},
		{"certificate without key", Config{URL: secure, CA: ca.file, Certificate: ca.cert("client")}, []string{"key"}, false},
		{"TLS", Config{URL: secure, CA: ca.file, Certificate: ca.cert("client"), Key: ca.key("client")}, nil, false},
		{"TLS to a server without", Config{URL: strings.Replace(plain.url, "nats://", "tls://", 1)}, []string{"no TLS"}, false},
		{"no such file", Config{URL: secure, CA: "/does/not/exist"}, []string{"CA", "/does/not/exist"}, false},
		{"no CA", Config{URL: secure, CA: junk}, []string{"the CA's file", "!nats://HOST"}, false},
		{"no certificate", Config{URL: secure, CA: ca.file, Certificate: junk, Key: ca.key("client")}, []string{"client certificate", "PEM"}, false},
		{"no credentials", Config{URL: nonce.url, Credentials: junk}, []string{"credentials file"}, false},
		{"bad URL", Config{URL: "nats://127.0.0.1:port"}, []string{"nats://HOST:PORT"}, false},
		{"secrets stay secret", Config{URL: fmt.Sprintf("nats://user:geheim@127.0.0.1:%d", programtest.FreePort(t))}, []string{"!geheim"}, true},
		{"both", Config{URL: plain.url, Dir: t.TempDir()}, []string{"not both"}, false},
		{"neither", Config{}, []string{"folder"}, false},
		{"replicas inside", Config{Dir: t.TempDir(), Replicas: 3}, []string{"replicas"}, false},
		{"bad name", Config{Dir: t.TempDir(), Name: "a.b"}, []string{"a.b"}, false},
		{"open to all", Config{Dir: t.TempDir(), Listen: "0.0.0.0:0"}, []string{"password"}, false},
		{"no folder", Config{Dir: "/proc/nowhere"}, []string{"/proc/nowhere"}, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			test.cfg.Log = testLog(t)
			s, err := Open(t.Context(), test.cfg)
			if s != nil {
				s.Close()
			}
			if test.want == nil {
				if err != nil {
					t.Fatal(err)
				}
				return
			}
			if err == nil {
				t.Fatal("it opened")
			}
			t.Log(err)
			if errors.Is(err, queue.ErrAway) != test.away {
				t.Errorf("away: %v", !test.away)
			}
			for _, want := range test.want {
				if not, is := strings.CutPrefix(want, "!"); is == strings.Contains(err.Error(), strings.TrimPrefix(want, "!")) {
					t.Errorf("%v: want %q%q", err, want, not)
				}
			}
		})
	}
}

func TestStreamsFollowTheirSettings(t *testing.T) {
	o := startOutside(t, "")
	s := openAt(t, Config{URL: o.url, MaxLane: 10})
	put(t, s, lane, "kept")
	s.Close()
	s = openAt(t, Config{URL: o.url, MaxLane: 1, Window: time.Hour})
	if _, _, err := s.Put(t.Context(), lane, nil, ""); !errors.Is(err, queue.ErrFull) {
		t.Fatalf("the new bound is not known: %v", err)
	}
	if got := s.queue.CachedInfo().Config; got.Duplicates != time.Hour || got.MaxMsgsPerSubject != 1 {
		t.Fatalf("%+v", got)
	}
	conn, err := nats.Connect(o.url)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	js, _ := conn.JetStream()
	if _, err := js.AddStream(&nats.StreamConfig{Name: "other-queue", Subjects: []string{"other.>"}}); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(t.Context(), Config{URL: o.url, Name: "other"}); err == nil || !strings.Contains(err.Error(), "another name") {
		t.Fatalf("a stream of somebody else: %v", err)
	}
}

func TestTheServerInsideListensOnlyWhenAsked(t *testing.T) {
	s := openInside(t)
	if addr := s.server.running.Addr(); addr != nil {
		t.Fatalf("open at %v", addr)
	}
	s = open(t, Config{Dir: t.TempDir(), Listen: "127.0.0.1:0", User: "u", Password: "p"})
	addr := s.server.running.Addr().String()
	if _, err := nats.Connect("nats://" + addr); !errors.Is(err, nats.ErrAuthorization) {
		t.Fatalf("no password: %v", err)
	}
	conn, err := nats.Connect("nats://u:p@" + addr)
	if err != nil {
		t.Fatal(err)
	}
	conn.Close()
}

type authority struct {
	t    testing.TB
	dir  string
	file string
	tls  *x509.Certificate
	priv *ecdsa.PrivateKey
}

func newCA(t testing.TB) *authority {
	ca := &authority{t: t, dir: t.TempDir()}
	ca.file = filepath.Join(ca.dir, "ca.pem")
	ca.priv, _ = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	ca.tls = &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test CA"}, IsCA: true,
		BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)}
	ca.write(ca.file, ca.tls, ca.priv)
	for i, name := range []string{"server", "client"} {
		priv, _ := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		leaf := &x509.Certificate{SerialNumber: big.NewInt(int64(i + 2)), Subject: pkix.Name{CommonName: name},
			ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
			IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)}
		ca.write(ca.cert(name), leaf, priv)
		der, err := x509.MarshalPKCS8PrivateKey(priv)
		if err != nil {
			t.Fatal(err)
		}
		ca.pem(ca.key(name), "PRIVATE KEY", der)
	}
	return ca
}

func (ca *authority) cert(name string) string { return filepath.Join(ca.dir, name+".pem") }
func (ca *authority) key(name string) string  { return filepath.Join(ca.dir, name+".key") }

func (ca *authority) write(path string, cert *x509.Certificate, priv *ecdsa.PrivateKey) {
	der, err := x509.CreateCertificate(rand.Reader, cert, ca.tls, &priv.PublicKey, ca.priv)
	if err != nil {
		ca.t.Fatal(err)
	}
	ca.pem(path, "CERTIFICATE", der)
}

func (ca *authority) pem(path, kind string, der []byte) {
	if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
		ca.t.Fatal(err)
	}
}
