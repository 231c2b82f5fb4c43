package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// controllers of the controller manager that a test of Deployments,
// StatefulSets, Services, HPAs, budgets and hand-made volumes needs. Each one
// more watches more kinds for nothing.
var controllers = strings.Join([]string{
	"clusterrole-aggregation-controller",
	"cronjob-controller",
	"daemonset-controller",
	"deployment-controller",
	"disruption-controller",
	"endpoints-controller",
	"endpointslice-controller",
	"garbage-collector-controller",
	"horizontal-pod-autoscaler-controller",
	"job-controller",
	"namespace-controller",
	"node-lifecycle-controller",
	"persistentvolume-attach-detach-controller",
	"persistentvolume-binder-controller",
	"persistentvolume-protection-controller",
	"persistentvolumeclaim-protection-controller",
	"pod-garbage-collector-controller",
	"replicaset-controller",
	"root-ca-certificate-publisher-controller",
	"serviceaccount-controller",
	"serviceaccount-token-controller",
	"statefulset-controller",
	"taint-eviction-controller",
}, ",")

// pauseImage is made by up itself: nothing can be pulled.
const pauseImage = "weir.test/pause:1"

func (n *node) program(name string) string { return filepath.Join(n.bin, name) }

func (n *node) file(name string) string { return filepath.Join(n.dir, name) }

// setting is a file that is written for one start.
func (n *node) setting(name string) string { return filepath.Join(n.dir, "settings", name) }

// socket is containerd's.
func (n *node) socket() string { return n.file("containerd.sock") }

func (n *node) etcd() []string {
	return []string{
		"etcd",
		"--data-dir=/run/etcd", // the place's own memory: no flush to disk slows a test
		"--listen-client-urls=http://127.0.0.1:2379",
		"--advertise-client-urls=http://127.0.0.1:2379",
		"--listen-peer-urls=http://127.0.0.1:2380",
		"--logger=zap", "--log-level=warn",
	}
}

func (n *node) containerd() []string {
	return []string{"containerd", "--config", n.setting("containerd.toml"), "--log-level", "warn"}
}

func (n *node) apiserver() []string {
	return []string{
		n.program("kube-apiserver"),
		"--etcd-servers=http://127.0.0.1:2379",
		"--advertise-address=" + nodeIP,
		"--secure-port=6443",
		"--service-cluster-ip-range=" + servicesNet,
		"--authorization-mode=Node,RBAC",
		"--allow-privileged=true",
		"--client-ca-file=" + n.pki.path("ca.crt"),
		"--tls-cert-file=" + n.pki.path("apiserver.crt"),
		"--tls-private-key-file=" + n.pki.path("apiserver.key"),
		"--service-account-issuer=https://kubernetes.default.svc",
		"--service-account-key-file=" + n.pki.path("service-account.pub"),
		"--service-account-signing-key-file=" + n.pki.path("service-account.key"),
		"--kubelet-client-certificate=" + n.pki.path("apiserver-kubelet.crt"),
		"--kubelet-client-key=" + n.pki.path("apiserver-kubelet.key"),
		"--kubelet-certificate-authority=" + n.pki.path("ca.crt"),
		"--kubelet-preferred-address-types=InternalIP", // there is no DNS
		"--audit-policy-file=" + n.setting("audit-policy.yaml"),
		"--audit-log-path=" + n.file("audit.log"),
		"--audit-log-mode=blocking", // a test that got its answer finds the line
		// Both compare caches with etcd all the time; the first also needs a
		// newer etcd than Debian's.
		"--feature-gates=SizeBasedListCostEstimate=false,DetectCacheInconsistency=false",
	}
}

func (n *node) controllerManager() []string {
	return []string{
		n.program("kube-controller-manager"),
		"--kubeconfig=" + n.setting("controller-manager.kubeconfig"),
		"--use-service-account-credentials=true",
		"--service-account-private-key-file=" + n.pki.path("service-account.key"),
		"--root-ca-file=" + n.pki.path("ca.crt"),
		"--leader-elect=false",
		"--bind-address=127.0.0.1",
		"--controllers=" + controllers,
		// The kubelet reports rarely, and a node on a busy machine is late.
		"--node-monitor-period=30s",
		"--node-monitor-grace-period=10m",
	}
}

func (n *node) scheduler() []string {
	return []string{
		n.program("kube-scheduler"),
		"--kubeconfig=" + n.setting("scheduler.kubeconfig"),
		"--leader-elect=false",
		"--bind-address=127.0.0.1",
	}
}

func (n *node) kubelet() []string {
	return []string{
		n.program("kubelet"),
		"--config=" + n.setting("kubelet.yaml"),
		"--kubeconfig=" + n.setting("kubelet.kubeconfig"),
		"--hostname-override=" + nodeName,
		"--node-ip=" + nodeIP,
		"--housekeeping-interval=30s",
	}
}

func (n *node) kubeProxy() []string {
	return []string{
		n.program("kube-proxy"),
		"--kubeconfig=" + n.setting("kube-proxy.kubeconfig"),
		"--hostname-override=" + nodeName,
		"--proxy-mode=nftables",
		"--cluster-cidr=" + podsNet,
		"--bind-address=" + nodeIP,
		"--healthz-bind-address=127.0.0.1:10256",
		"--metrics-bind-address=127.0.0.1:10249",
		"--oom-score-adj=0",
		// These would write to settings that a network namespace may not.
		"--conntrack-max-per-core=0", "--conntrack-min=0",
		"--conntrack-tcp-timeout-established=0s", "--conntrack-tcp-timeout-close-wait=0s",
	}
}

// writeSettings writes the files that the arguments above name.
func (n *node) writeSettings() error {
	if err := os.MkdirAll(n.setting("cni"), 0o755); err != nil {
		return err
	}
	for name, text := range map[string]string{
		"containerd.toml":      fmt.Sprintf(containerdTOML, n.file("containerd"), n.socket(), pauseImage, n.setting("cni")),
		"cni/10-pods.conflist": fmt.Sprintf(podsConflist, podsNet),
		"kubelet.yaml":         fmt.Sprintf(kubeletYAML, n.pki.path("ca.crt"), n.pki.path("kubelet.crt"), n.pki.path("kubelet.key"), n.socket(), n.group.name),
		"audit-policy.yaml":    auditPolicyYAML,
	} {
		if err := os.WriteFile(n.setting(name), []byte(text), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// restrict_oom_score_adj: where root lacks CAP_SYS_RESOURCE, a score below
// containerd's own ends runc with "can't get final child's PID from pipe".
const containerdTOML = `version = 2
root = %q
state = "/run/containerd"
oom_score = 0
disabled_plugins = ["io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.zfs", "io.containerd.tracing.processor.v1.otlp", "io.containerd.internal.v1.tracing"]
[grpc]
  address = %q
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = %q
  restrict_oom_score_adj = true
  disable_apparmor = true
  stream_server_address = "127.0.0.1"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "overlayfs"
    default_runtime_name = "runc"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = %q
`

// ptp: every pod is a routed link of its own, so that answers to what a
// Service rewrote always come back through the node.
const podsConflist = `{
  "cniVersion": "0.4.0",
  "name": "pods",
  "plugins": [
    {"type": "ptp", "ipMasq": false, "ipam": {"type": "host-local", "ranges": [[{"subnet": "%s"}]], "routes": [{"dst": "0.0.0.0/0"}]}}
  ]
}
`

// The kubelet evicts at small marks of its own, since other work on this
// machine fills its disk. There is no DNS: in a pod, 127.0.0.1 refuses a look-up
// at once, and the kubelet raises no Event for want of a server.
const kubeletYAML = `apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
authentication:
  anonymous: {enabled: false}
  webhook: {enabled: false}
  x509: {clientCAFile: %q}
authorization: {mode: AlwaysAllow}
tlsCertFile: %q
tlsPrivateKeyFile: %q
containerRuntimeEndpoint: "unix://%s"
cgroupDriver: cgroupfs
cgroupRoot: "/%s"
failCgroupV1: false
failSwapOn: false
enforceNodeAllocatable: []
maxPods: 110
evictionHard: {memory.available: 50Mi, nodefs.available: 200Mi, nodefs.inodesFree: "100", imagefs.available: 200Mi, imagefs.inodesFree: "100"}
imageGCHighThresholdPercent: 100
imageGCLowThresholdPercent: 99
oomScoreAdj: 0
makeIPTablesUtilChains: false
resolvConf: ""
clusterDNS: [127.0.0.1]
eventRecordQPS: 0
registryPullQPS: 0
nodeStatusUpdateFrequency: 30s
nodeStatusReportFrequency: 10m
nodeLeaseDurationSeconds: 240
volumeStatsAggPeriod: -1s
`

// Tests count what a program read and wrote by user agent, verb and resource,
// and see the replicas that it asked for and got.
const auditPolicyYAML = `apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
- level: RequestResponse
  verbs: [update, patch]
  resources:
  - group: apps
    resources: [deployments, statefulsets, deployments/scale, statefulsets/scale]
- level: RequestResponse
  resources:
  - group: apps
    resources: [deployments/scale, statefulsets/scale]
- level: Metadata
`
