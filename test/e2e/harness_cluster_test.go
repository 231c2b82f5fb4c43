package e2e

import (
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

const (
	// patience is how long a condition may take on a machine that does ten
	// other things. It says nothing about how long it should.
	patience = 3 * time.Minute
	imageTag = "e2e"
)

// the cluster that the tests use, nil where they only skip.
var the *cluster

// A cluster is what the tests run on. Its methods are for tests.
type cluster struct {
	kubeconfig string
	dir        string // the node's folder; empty for a cluster of others
	images     string // prefix of every image's name
	kubectlBin string
	helmBin    string
	home       string // of helm

	server string
	client *http.Client

	namespaces []string // to remove
	volumes    []string
	shared     *release
}

// need skips where there is no cluster.
func need(t *testing.T) *cluster {
	t.Helper()
	if the == nil {
		t.Skipf("a real node: run make e2e, or set %s=1 as root", envNode)
	}
	return the
}

// needNode skips where the cluster is not a node of this machine: on others
// there is no audit log, no way to pods' addresses, and nothing is broken.
func needNode(t *testing.T) *cluster {
	t.Helper()
	c := need(t)
	if c.dir == "" {
		t.Skip("needs a node of this machine: " + envNode + "=1")
	}
	return c
}

// long is of two values the one for the present kind of run.
func long[T any](short, long T) T {
	if os.Getenv(envLong) == "" {
		return short
	}
	return long
}

func (c *cluster) connect() (err error) {
	if c.kubectlBin, err = program("kubectl"); err != nil {
		return err
	}
	if c.helmBin, err = program("helm"); err != nil {
		return err
	}
	text, err := exec.Command(c.kubectlBin, "--kubeconfig", c.kubeconfig, "config", "view", "--raw", "--minify", "-o", "json").Output()
	if err != nil {
		return fmt.Errorf("kubeconfig %s: %w", c.kubeconfig, err)
	}
	var config struct {
		Clusters []struct {
			Name    string
			Cluster struct {
				Server string
				CA     []byte `json:"certificate-authority-data"`
			}
		}
		Users []struct {
			User struct {
				Cert []byte `json:"client-certificate-data"`
				Key  []byte `json:"client-key-data"`
			}
		}
	}
	if err := json.Unmarshal(text, &config); err != nil {
		return fmt.Errorf("kubeconfig %s: %w", c.kubeconfig, err)
	}
	if len(config.Clusters) != 1 || len(config.Users) != 1 {
		return fmt.Errorf("kubeconfig %s: expected a current context with a cluster and a user", c.kubeconfig)
	}
	if name := config.Clusters[0].Name; c.dir == "" && name != os.Getenv(envCluster) {
		return fmt.Errorf("the cluster of %s is %q, and %s says %q: they must be equal", c.kubeconfig, name, envCluster, os.Getenv(envCluster))
	}
	if c.home, err = os.MkdirTemp("", "weir-e2e-helm-"); err != nil {
		return err
	}
	c.server = config.Clusters[0].Cluster.Server
	certificate, err := tls.X509KeyPair(config.Users[0].User.Cert, config.Users[0].User.Key)
	if err != nil { // a user without a certificate: kubectl knows how
		return nil
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(config.Clusters[0].Cluster.CA)
	c.client = &http.Client{Transport: &http.Transport{
		TLSClientConfig:     &tls.Config{RootCAs: roots, Certificates: []tls.Certificate{certificate}},
		MaxIdleConnsPerHost: 16,
	}}
	return nil
}

// get reads a path of the API server into v.
func (c *cluster) get(path string, v any) error {
	if c.client == nil {
		text, err := exec.Command(c.kubectlBin, "--kubeconfig", c.kubeconfig, "get", "--raw", path).Output()
		if err != nil {
			return fmt.Errorf("GET %s: %w", path, err)
		}
		return json.Unmarshal(text, v)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, c.server+path, nil)
	if err != nil {
		return err
	}
	resp, err := c.client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("GET %s: %s: %.200s", path, resp.Status, body)
	}
	return json.Unmarshal(body, v)
}

// kubectl runs it with text as its standard input.
func (c *cluster) kubectl(text string, args ...string) (string, error) {
	cmd := exec.Command(c.kubectlBin, append([]string{"--kubeconfig", c.kubeconfig}, args...)...)
	cmd.Stdin = strings.NewReader(text)
	var out, fault bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &fault
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("kubectl %s: %w: %s", strings.Join(args, " "), err, fault.String())
	}
	return out.String(), nil
}

// k is kubectl, which must do it.
func (c *cluster) k(t *testing.T, args ...string) string {
	t.Helper()
	out, err := c.kubectl("", args...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// apply gives objects to the cluster.
func (c *cluster) apply(t *testing.T, namespace, manifest string) {
	t.Helper()
	if _, err := c.kubectl(manifest, "-n", namespace, "apply", "-f", "-"); err != nil {
		t.Fatal(err)
	}
}

// helm runs it, and it must do it.
func (c *cluster) helm(t *testing.T, args ...string) string {
	t.Helper()
	out, err := c.tryHelm(args...)
	if err != nil {
		t.Fatalf("helm %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return out
}

// tryHelm runs it.
func (c *cluster) tryHelm(args ...string) (string, error) {
	cmd := exec.Command(c.helmBin, append([]string{"--kubeconfig", c.kubeconfig}, args...)...)
	cmd.Env = append(os.Environ(), "HELM_CACHE_HOME="+c.home, "HELM_CONFIG_HOME="+c.home, "HELM_DATA_HOME="+c.home)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// fault breaks something of the node: what `cluster fault` takes.
func (c *cluster) fault(t *testing.T, args ...string) {
	t.Helper()
	tool, err := program("cluster")
	if err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command(tool, append([]string{"fault", "-dir", c.dir}, args...)...).CombinedOutput(); err != nil {
		t.Fatalf("cluster fault %s: %v\n%s", strings.Join(args, " "), err, out)
	}
}

// namespace makes one, with a name that begins with prefix.
func (c *cluster) namespace(t *testing.T, prefix string) string {
	t.Helper()
	if c.dir == "" && len(c.namespaces) > 0 {
		t.Skip("needs a namespace of its own; on a cluster of others there is one only")
	}
	name := fmt.Sprintf("%s-%04x", prefix, rand.IntN(1<<16))
	c.namespaces = append(c.namespaces, name)
	c.k(t, "create", "namespace", name)
	return name
}

// remove takes away what was made.
func (c *cluster) remove() {
	for _, name := range c.namespaces {
		if _, err := c.kubectl("", "delete", "namespace", name, "--wait=false", "--ignore-not-found"); err != nil {
			fmt.Fprintln(os.Stderr, "e2e:", err)
		}
	}
	for _, name := range c.volumes {
		if _, err := c.kubectl("", "delete", "persistentvolume", name, "--wait=false", "--ignore-not-found"); err != nil {
			fmt.Fprintln(os.Stderr, "e2e:", err)
		}
	}
	os.RemoveAll(c.home)
}

// eventually asks until the answer is no error.
func eventually(t *testing.T, what string, ask func() error) {
	t.Helper()
	end := time.Now().Add(patience)
	for {
		err := ask()
		if err == nil {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("%s: not within %v: %v", what, patience, err)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// keep is where what belongs to a failed test goes.
func (c *cluster) keep(t *testing.T, name, text string) {
	dir := os.Getenv(envLogs)
	if dir == "" {
		dir = filepath.Join(cmp.Or(c.dir, os.TempDir()), "failed")
	}
	path := filepath.Join(dir, strings.ReplaceAll(t.Name(), "/", "_"), name)
	if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o644)); err != nil {
		t.Log(err)
		return
	}
	t.Logf("kept: %s", path)
}
