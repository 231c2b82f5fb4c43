package kube

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
)

// kubeBin names the folder with kube-apiserver and kube-controller-manager,
// as test/cluster builds them. etcd is Debian's, found there or in PATH.
const kubeBin = "WEIR_KUBE_BIN"

// patience is how long anything may take on a machine that is busy.
const patience = 90 * time.Second

// cluster is a real API server with etcd and the controllers that make pods.
// There is no kubelet: nodeAgent plays it.
type cluster struct {
	dir, address string
	admin        kubernetes.Interface
	writes       *writeLog
	mu           sync.Mutex
	server       *exec.Cmd
	etcdPort     int
	stop         []func()
}

const adminToken = "admin-of-the-test"

var shared struct {
	once sync.Once
	c    *cluster
	err  error
}

func TestMain(m *testing.M) {
	if os.Getenv(asChild) != "" {
		childWeir()
		return
	}
	quiet(slog.New(slog.DiscardHandler)) // one logger for all, and no test outlives the others
	code := m.Run()
	if shared.c != nil {
		shared.c.close()
	}
	os.Exit(code)
}

// realCluster is one for all tests of this run.
func realCluster(t *testing.T) *cluster {
	t.Helper()
	if os.Getenv(kubeBin) == "" {
		t.Skip(kubeBin + " is not set: it names the folder with kube-apiserver and kube-controller-manager (make e2e builds them)")
	}
	shared.once.Do(func() { shared.c, shared.err = startCluster(os.Getenv(kubeBin)) })
	if shared.err != nil {
		t.Fatal(shared.err)
	}
	return shared.c
}

func startCluster(bin string) (*cluster, error) {
	dir, err := os.MkdirTemp("", "weir-kube-")
	if err != nil {
		return nil, err
	}
	c := &cluster{dir: dir}
	fail := func(err error) (*cluster, error) { c.close(); return nil, err }
	etcd := filepath.Join(bin, "etcd")
	if _, err := os.Stat(etcd); err != nil {
		if etcd, err = exec.LookPath("etcd"); err != nil {
			return fail(fmt.Errorf("etcd: %w (Debian's package is etcd-server)", err))
		}
	}
	c.etcdPort = freePort()
	client, peer := fmt.Sprintf("http://127.0.0.1:%d", c.etcdPort), fmt.Sprintf("http://127.0.0.1:%d", freePort())
	if _, err := c.start("etcd", etcd, "--data-dir", filepath.Join(dir, "etcd"), "--unsafe-no-fsync",
		"--listen-client-urls", client, "--advertise-client-urls", client,
		"--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer, "--initial-cluster", "default="+peer); err != nil {
		return fail(err)
	}
	if err := c.files(); err != nil {
		return fail(err)
	}
	c.address = fmt.Sprintf("127.0.0.1:%d", freePort())
	if err := c.serve(bin); err != nil {
		return fail(err)
	}
	if c.admin, err = kubernetes.NewForConfig(c.config(adminToken)); err != nil {
		return fail(err)
	}
	if _, err := c.start("controllers", filepath.Join(bin, "kube-controller-manager"),
		"--kubeconfig", c.kubeconfig("controllers", adminToken, ""), "--leader-elect=false", "--secure-port=0",
		"--kube-api-qps=500", "--kube-api-burst=1000", "--concurrent-gc-syncs=4", "--concurrent-deployment-syncs=10",
		"--controllers=deployment-controller,replicaset-controller,statefulset-controller,garbage-collector-controller"); err != nil {
		return fail(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	c.stop = append(c.stop, cancel)
	c.writes = recordWrites(ctx, c.admin)
	go (&nodeAgent{api: c.admin}).run(ctx)
	return c, nil
}

// files are keys and tokens for the API server.
func (c *cluster) files() error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return err
	}
	return errors.Join(
		os.WriteFile(c.path("sa.key"), pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der}), 0o600),
		os.WriteFile(c.path("tokens.csv"), []byte(adminToken+",admin,admin,system:masters\n"), 0o600),
		os.WriteFile(c.path("audit.yaml"), []byte("apiVersion: audit.k8s.io/v1\nkind: Policy\nomitStages: [RequestReceived]\nrules:\n- level: Metadata\n"), 0o600))
}

func (c *cluster) path(name string) string { return filepath.Join(c.dir, name) }

// serve starts the API server and waits until it is ready.
func (c *cluster) serve(bin string) error {
	_, port, _ := net.SplitHostPort(c.address)
	cmd, err := c.start("apiserver", filepath.Join(bin, "kube-apiserver"),
		"--etcd-servers", fmt.Sprintf("http://127.0.0.1:%d", c.etcdPort),
		"--bind-address", "127.0.0.1", "--secure-port", port, "--cert-dir", c.path("certs"),
		"--service-cluster-ip-range", "198.51.101.0/24", "--endpoint-reconciler-type", "none",
		"--service-account-issuer", "https://weir.test", "--service-account-key-file", c.path("sa.key"),
		"--service-account-signing-key-file", c.path("sa.key"),
		"--authorization-mode", "RBAC", "--token-auth-file", c.path("tokens.csv"),
		"--disable-admission-plugins", "ServiceAccount", "--shutdown-delay-duration", "0s",
		"--audit-policy-file", c.path("audit.yaml"), "--audit-log-path", c.path("audit.log"),
		"--max-requests-inflight", "2000", "--max-mutating-requests-inflight", "1000")
	if err != nil {
		return err
	}
	c.mu.Lock()
	c.server = cmd
	c.mu.Unlock()
	client, err := rest.HTTPClientFor(c.config(adminToken))
	if err != nil {
		return err
	}
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		answer, err := client.Get("https://" + c.address + "/readyz")
		if err == nil {
			answer.Body.Close()
			if answer.StatusCode == http.StatusOK {
				return nil
			}
		}
	}
	return fmt.Errorf("kube-apiserver is not ready after %v:\n%s", patience, tail(c.path("apiserver.log")))
}

// away ends the API server at once, and returns what starts it again.
func (c *cluster) away(t *testing.T) (back func()) {
	t.Helper()
	c.mu.Lock()
	cmd := c.server
	c.mu.Unlock()
	cmd.Process.Kill()
	cmd.Wait()
	var once sync.Once
	back = func() {
		once.Do(func() {
			if err := c.serve(os.Getenv(kubeBin)); err != nil {
				t.Error(err)
			}
		})
	}
	t.Cleanup(back)
	return back
}

func (c *cluster) start(name, path string, args ...string) (*exec.Cmd, error) {
	log, err := os.OpenFile(c.path(name+".log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	cmd := exec.Command(path, args...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	c.stop = append(c.stop, func() { cmd.Process.Kill(); cmd.Wait() })
	return cmd, nil
}

func (c *cluster) close() {
	for _, stop := range c.stop {
		stop()
	}
	os.RemoveAll(c.dir)
}

func (c *cluster) config(token string) *rest.Config {
	return &rest.Config{
		Host: "https://" + c.address, BearerToken: token, QPS: -1,
		TLSClientConfig: rest.TLSClientConfig{Insecure: true},
	}
}

// kubeconfig writes one and returns its path.
func (c *cluster) kubeconfig(name, token, namespace string) string {
	path := c.path(name + ".kubeconfig")
	text := fmt.Sprintf(`apiVersion: v1
kind: Config
clusters: [{name: test, cluster: {server: "https://%s", insecure-skip-tls-verify: true}}]
users: [{name: test, user: {token: %q}}]
contexts: [{name: test, context: {cluster: test, user: test, namespace: %q}}]
current-context: test
`, c.address, token, namespace)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		panic(err)
	}
	return path
}

// audit yields the lines of the audit log that hold all of the parts.
func (c *cluster) audit(t *testing.T, parts ...string) []string {
	t.Helper()
	file, err := os.Open(c.path("audit.log"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	var found []string
	lines := bufio.NewScanner(file)
	lines.Buffer(nil, 1<<20)
next:
	for lines.Scan() {
		for _, part := range parts {
			if !strings.Contains(lines.Text(), part) {
				continue next
			}
		}
		found = append(found, lines.Text())
	}
	return found
}

func freePort() int {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	defer l.Close()
	_, port, _ := net.SplitHostPort(l.Addr().String())
	n, _ := strconv.Atoi(port)
	return n
}

func tail(path string) string {
	text, _ := os.ReadFile(path)
	lines := bytes.Split(text, []byte("\n"))
	return string(bytes.Join(lines[max(0, len(lines)-15):], []byte("\n")))
}
