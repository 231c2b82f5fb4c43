package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/weir-run/weir/function"
	"github.com/weir-run/weir/provider/kube"
	"github.com/weir-run/weir/provider/local"
)

// namespaceFile is where Kubernetes tells a pod its namespace.
const namespaceFile = "/var/run/secrets/kubernetes.io/serviceaccount/namespace"

// newProvider makes the provider that is asked for, and says which namespace
// is that of names without one.
func (w *weir) newProvider() (namespace string, err error) {
	if w.settings.Provider.val == "local" {
		return w.newLocal()
	}
	return w.newKube()
}

func (w *weir) newLocal() (namespace string, err error) {
	s := w.settings
	namespace = s.Namespace.val
	if namespace == "" {
		namespace = "default"
	}
	self, err := os.Executable()
	if err != nil {
		return "", fmt.Errorf("path of weir itself: %w", err)
	}
	fwatchdog, err := findFwatchdog(s.Fwatchdog.val, self)
	if err != nil {
		return "", err
	}
	w.provider, err = local.New(local.Config{
		Stack: s.Stack.val, Namespace: namespace, Fwatchdog: fwatchdog,
		// This very program, also after another was built in its place.
		Keeper:  []string{"/proc/self/exe", keepCommand},
		Environ: os.Environ(), TempDir: os.TempDir(), Log: w.log, Output: os.Stderr,
	})
	return namespace, err
}

// findFwatchdog is the program that is named, else the one beside weir, else
// the one on the PATH.
func findFwatchdog(named, self string) (string, error) {
	if named != "" {
		path, err := exec.LookPath(named)
		if err != nil {
			return "", fmt.Errorf("WEIR_FWATCHDOG: %w", err)
		}
		return path, nil
	}
	if beside := filepath.Join(filepath.Dir(self), "fwatchdog"); executable(beside) {
		return beside, nil
	}
	path, err := exec.LookPath("fwatchdog")
	if err != nil {
		return "", fmt.Errorf("no fwatchdog beside %s and none on the PATH: build it (make build) or name it by WEIR_FWATCHDOG", self)
	}
	return path, nil
}

func executable(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0
}

func (w *weir) newKube() (namespace string, err error) {
	s := w.settings
	own := ""
	switch text, err := os.ReadFile(namespaceFile); {
	case err == nil:
		own = strings.TrimSpace(string(text))
	case !errors.Is(err, os.ErrNotExist):
		return "", fmt.Errorf("weir's own namespace: %w", err)
	}
	var namespaces []string
	for name := range strings.SplitSeq(s.Namespace.val, ",") {
		if name = strings.TrimSpace(name); name != "" {
			namespaces = append(namespaces, name)
		}
	}
	if own == "" { // not in a pod
		own = "default"
		if len(namespaces) > 0 && namespaces[0] != "*" {
			own = namespaces[0]
		}
	}
	namespace = own
	if len(namespaces) > 0 && namespaces[0] != "*" {
		namespace = namespaces[0]
	}
	identity := s.PodName.val
	if identity == "" {
		if identity, err = os.Hostname(); err != nil {
			return "", fmt.Errorf("name of this weir: %w: set WEIR_POD_NAME", err)
		}
	}
	w.provider, err = kube.New(kube.Config{
		Log: w.log, Kubeconfig: s.Kubeconfig.val, Namespace: own, Namespaces: namespaces, Identity: identity,
		Lease: s.Release.val, Peers: "app.kubernetes.io/name=weir,app.kubernetes.io/instance=" + s.Release.val, Version: version,
	})
	return namespace, err
}

// reload has a provider that reads a file read it anew. What is wrong with it is
// said, and changes nothing.
func (w *weir) reload() {
	p, can := w.provider.(interface{ Reload() error })
	if !can {
		w.log.Info("SIGHUP: there is no file to read anew")
		return
	}
	if err := p.Reload(); err != nil {
		w.log.Error("the stack was not read anew, the old one holds", "error", err)
		return
	}
	w.log.Info("the stack was read anew")
}

// explain and kick reach the autoscaler, which is made after the gateway.
func (w *weir) explain(ref function.Ref) any { return w.autoscaler.Explain(ref) }
func (w *weir) kick(ref function.Ref)        { w.autoscaler.Kick(ref) }

// drainInterval is nobody's to wait for where nothing balances over weirs.
func (s *settings) drainInterval() time.Duration {
	if s.DrainInterval.text == "" && s.Provider.val == "local" {
		return 0
	}
	if s.DrainInterval.text == "" {
		return defaultDrainInterval
	}
	return s.DrainInterval.val
}

const defaultDrainInterval = 5 * time.Second
