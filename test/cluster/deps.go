package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// programPath is the PATH of all that the node runs. It is not the caller's,
// which has no sbin for most users.
const programPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

type need struct{ path, pkg string }

// needs are the programs that the node runs and the Debian package that each
// comes in. Debian starts no service of them here: the node runs its own.
var needs = []need{
	{"containerd", "containerd"},
	{"ctr", "containerd"},
	{"containerd-shim-runc-v2", "containerd"},
	{"runc", "runc"},
	{"/usr/lib/cni/ptp", "containernetworking-plugins"},
	{"/usr/lib/cni/host-local", "containernetworking-plugins"},
	{"nft", "nftables"},
	{"etcd", "etcd-server"},
	{"ip", "iproute2"},
	{"mount", "mount"},
	{"nsenter", "util-linux"},
}

// missing names the packages whose programs are not there.
func missing() []string {
	var pkgs []string
	for _, n := range needs {
		if !slices.Contains(pkgs, n.pkg) && !slices.ContainsFunc(filepath.SplitList(programPath), n.in) {
			pkgs = append(pkgs, n.pkg)
		}
	}
	return pkgs
}

func (n need) in(dir string) bool {
	path := n.path
	if !filepath.IsAbs(path) {
		path = filepath.Join(dir, path)
	}
	_, err := exec.LookPath(path)
	return err == nil
}

func depsCommand(ctx context.Context, args []string) error {
	if err := parse(flag.NewFlagSet("deps", flag.ContinueOnError), args); err != nil {
		return err
	}
	pkgs := missing()
	if len(pkgs) == 0 {
		fmt.Println("every package is there")
		return nil
	}
	list := strings.Join(pkgs, " ")
	fmt.Println("missing:", list)
	if os.Geteuid() != 0 {
		return fmt.Errorf("installing packages needs root: sudo apt-get install --no-install-recommends %s", list)
	}
	if _, err := exec.LookPath("apt-get"); err != nil {
		return fmt.Errorf("there is no apt-get on this machine: install what Debian calls %s another way", list)
	}
	if err := apt(ctx, "update", "-qq"); err != nil {
		return err
	}
	if err := apt(ctx, append([]string{"install", "-y", "-qq", "--no-install-recommends"}, pkgs...)...); err != nil {
		return err
	}
	if pkgs := missing(); len(pkgs) > 0 {
		return fmt.Errorf("apt-get installed the packages, and %s still has no program in %s", strings.Join(pkgs, " "), programPath)
	}
	return nil
}

func apt(ctx context.Context, args ...string) error {
	cmd := exec.CommandContext(ctx, "apt-get", args...)
	cmd.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("apt-get %s: %w\n%s", strings.Join(args, " "), err, out)
	}
	return nil
}
