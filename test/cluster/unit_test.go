package main

import (
	"archive/tar"
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
)

// TestArguments is about what people mistype, which must not need root, a
// network or a node to be told.
func TestArguments(t *testing.T) {
	for want, args := range map[string][]string{
		"name a command":           {},
		`no command "boot"`:        {"boot"},
		"up needs -dir":            {"up"},
		"build needs -bin":         {"build"},
		"-down 10m0s: want 0s to":  {"fault", "-dir", "x", "-down", "10m", "apiserver-restart"},
		"name one fault":           {"fault", "-dir", "x", "apiserver"},
		"is it running with -dir":  {"fault", "-dir", t.TempDir(), "apiserver-restart"},
		"is cluster up running":    {"image", "-dir", t.TempDir(), "-name", "a:1", "unit_test.go=/a"},
		"want FILE=PATH":           {"image", "-dir", "x", "-name", "a:1", "unit_test.go=a"},
		"at least one file":        {"image", "-dir", "x", "-name", "a:1"},
		"name a tar":               {"import", "-dir", "x"},
		"not build":                {"build", "-bin", t.TempDir(), "-only", "kubelet,docker"},
		"flag provided but not de": {"up", "-namespace", "x"},
		"give -src":                {"build", "-bin", t.TempDir(), "-src", t.TempDir()},
	} {
		if err := run(t.Context(), args); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("cluster %q: %v, want %q", args, err, want)
		}
	}
}

func TestNodeNames(t *testing.T) {
	if os.Geteuid() != 0 {
		if _, err := newNode(t.TempDir(), "ok"); err == nil || !strings.Contains(err.Error(), "needs root") {
			t.Errorf("without root: %v", err)
		}
		return
	}
	for _, name := range []string{"", "../x", "-x", "X", "a/b", strings.Repeat("a", 33)} {
		if _, err := newNode(t.TempDir(), name); err == nil || !strings.Contains(err.Error(), "-netns") {
			t.Errorf("-netns %q: %v", name, err)
		}
	}
}

func TestQualified(t *testing.T) {
	for name, want := range map[string]string{
		"hello":                  "docker.io/library/hello:latest",
		"hello:1":                "docker.io/library/hello:1",
		"weir/fwatchdog:2":       "docker.io/weir/fwatchdog:2",
		"weir.test/pause:1":      "weir.test/pause:1",
		"localhost/a":            "localhost/a:latest",
		"localhost:5000/a/b":     "localhost:5000/a/b:latest",
		"ghcr.io/weir-run/a:1.0": "ghcr.io/weir-run/a:1.0",
	} {
		if got := qualified(name); got != want {
			t.Errorf("qualified(%q) = %q, want %q", name, got, want)
		}
	}
}

// TestImage reads back what containerd is given.
func TestImage(t *testing.T) {
	file := filepath.Join(t.TempDir(), "program")
	if err := os.WriteFile(file, []byte("text"), 0o700); err != nil {
		t.Fatal(err)
	}
	i := image{name: "a:1", entrypoint: []string{"/bin/a", "-x"}, user: "12000", env: []string{"K=V"}, files: map[string]string{"/bin/a": file, "/etc/b/c": file}}
	var archive bytes.Buffer
	if err := i.write(&archive); err != nil {
		t.Fatal(err)
	}
	files, _ := untar(t, &archive)
	var manifest []struct {
		Config   string
		RepoTags []string
		Layers   []string
	}
	if err := json.Unmarshal(files["manifest.json"], &manifest); err != nil {
		t.Fatal(err)
	}
	if m := manifest[0]; len(manifest) != 1 || m.RepoTags[0] != "docker.io/library/a:1" || m.Layers[0] != "layer.tar" {
		t.Fatalf("manifest %+v", manifest)
	}
	var config struct {
		Config struct {
			Entrypoint, Env []string
			User            string
		}
		RootFS struct {
			DiffIDs []string `json:"diff_ids"`
		}
	}
	if err := json.Unmarshal(files[manifest[0].Config], &config); err != nil {
		t.Fatal(err)
	}
	if c := config.Config; strings.Join(c.Entrypoint, " ") != "/bin/a -x" || c.User != "12000" || c.Env[1] != "K=V" {
		t.Errorf("configuration %+v", c)
	}
	if want := "sha256:" + hash(files["layer.tar"]); config.RootFS.DiffIDs[0] != want {
		t.Errorf("diff id %s, want %s", config.RootFS.DiffIDs[0], want)
	}
	layer, modes := untar(t, bytes.NewReader(files["layer.tar"]))
	if string(layer["bin/a"]) != "text" || string(layer["etc/b/c"]) != "text" {
		t.Errorf("layer %q", layer)
	}
	for name, want := range map[string]int64{"tmp/": 0o1777, "bin/": 0o755, "etc/": 0o755, "etc/b/": 0o755, "bin/a": 0o744} {
		if modes[name] != want {
			t.Errorf("mode of %s: %o, want %o", name, modes[name], want)
		}
	}
}

func untar(t *testing.T, r io.Reader) (map[string][]byte, map[string]int64) {
	t.Helper()
	files, modes := map[string][]byte{}, map[string]int64{}
	for archive := tar.NewReader(r); ; {
		header, err := archive.Next()
		if err == io.EOF {
			return files, modes
		}
		if err != nil {
			t.Fatal(err)
		}
		if files[header.Name], err = io.ReadAll(archive); err != nil {
			t.Fatal(err)
		}
		modes[header.Name] = header.Mode
	}
}

// TestCertificates checks them as the API server and its clients will.
func TestCertificates(t *testing.T) {
	p, err := newPKI(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	if err := p.issue("apiserver", pkix.Name{CommonName: "apiserver", Organization: []string{"group"}}, nodeIP, "kubernetes"); err != nil {
		t.Fatal(err)
	}
	pair, err := tls.LoadX509KeyPair(p.path("apiserver.crt"), p.path("apiserver.key"))
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(p.path("ca.crt"))
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(text)
	for _, name := range []string{nodeIP, "kubernetes"} {
		for _, usage := range []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth} {
			if _, err := pair.Leaf.Verify(x509.VerifyOptions{Roots: roots, DNSName: name, KeyUsages: []x509.ExtKeyUsage{usage}}); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
	if pair.Leaf.IsCA {
		t.Error("the API server's certificate may sign others")
	}
	private, _ := os.ReadFile(p.path("service-account.key"))
	public, _ := os.ReadFile(p.path("service-account.pub"))
	if a, _ := pem.Decode(private); a == nil || a.Type != "EC PRIVATE KEY" {
		t.Error("no service account key")
	}
	if b, _ := pem.Decode(public); b == nil || b.Type != "PUBLIC KEY" {
		t.Error("no public service account key")
	}
}

// TestLock holds two to one file: while it is held, after it is given back,
// and where its holder removes it, as cluster up does with its mark.
func TestLock(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	unlock, err := lock(path, false)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := lock(path, false); !errors.Is(err, errHeld) {
		t.Errorf("second holder: %v", err)
	}
	got := make(chan error)
	go func() {
		again, err := lock(path, true)
		if err == nil {
			_, err = os.Stat(path)
			again()
		}
		got <- err
	}()
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	waiter := regexp.MustCompile(fmt.Sprintf(`-> FLOCK .*:%d `, info.Sys().(*syscall.Stat_t).Ino))
	for table := []byte(nil); !waiter.Match(table) && t.Context().Err() == nil; {
		if table, err = os.ReadFile("/proc/locks"); err != nil {
			t.Fatal(err)
		}
	}
	os.Remove(path)
	unlock()
	if err := <-got; err != nil {
		t.Errorf("holder after a removal: %v", err)
	}
}
