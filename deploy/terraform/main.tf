# The machines. Their private addresses are fixed beforehand, so that each can be told its
# neighbours' without the machines depending on each other in a circle.

locals {
  locator_port = 51015
  subnet       = cidrsubnet(var.vpc_cidr, 24 - tonumber(split("/", var.vpc_cidr)[1]), 0)
  # The first four addresses of a subnet are AWS's.
  peer_ips   = [for index in range(var.peers) : cidrhost(local.subnet, 10 + index)]
  locator_ip = var.locator_apart ? cidrhost(local.subnet, 9) : local.peer_ips[0]

  peer_env = [for index, ip in local.peer_ips : {
    URL_Request = "${local.locator_ip}:${local.locator_port}"
    PORT        = tostring(var.port)
    # The next one, and one more who is asked while that one restarts.
    URL_PEERSU = join(",", distinct([
      for step in range(1, min(3, var.peers)) : "${local.peer_ips[(index + step) % var.peers]}:${var.port}"
    ]))
    PUBLIC_URL   = "http://${ip}:${var.port}"
    SHARED_DIR   = "/var/lib/vecino/shared"
    DOWNLOAD_DIR = "/var/lib/vecino/downloads"
    DATA_DIR     = "/var/lib/vecino/data"
  }]
  locator_env = {
    HOST         = "[::]:${local.locator_port}"
    STORE_URL    = "redb:/var/lib/vecino-locator/locator.redb"
    METRICS_ADDR = "127.0.0.1:51016"
  }
  user_data = [for index, env in local.peer_env : templatefile("${path.module}/cloud-init.sh.tftpl", {
    release_url    = var.release_url
    release_sha256 = var.release_sha256
    roles = merge(
      { peer = env },
      index == 0 && !var.locator_apart ? { locator = local.locator_env } : {},
    )
  })]
  ami_id = var.ami_id != "" ? var.ami_id : data.aws_ami.debian[0].id
}

data "aws_ami" "debian" {
  count       = var.ami_id == "" ? 1 : 0
  most_recent = true
  owners      = ["136693071363"] # Debian
  filter {
    name   = "name"
    values = ["debian-12-${var.architecture == "x86_64" ? "amd64" : "arm64"}-*"]
  }
  filter {
    name   = "architecture"
    values = [var.architecture]
  }
}

resource "aws_key_pair" "this" {
  count      = var.ssh_public_key == "" ? 0 : 1
  key_name   = var.name
  public_key = var.ssh_public_key
}

resource "aws_instance" "peer" {
  count                       = var.peers
  ami                         = local.ami_id
  instance_type               = var.instance_type
  subnet_id                   = aws_subnet.this.id
  private_ip                  = local.peer_ips[count.index]
  associate_public_ip_address = true
  key_name                    = one(aws_key_pair.this[*].key_name)
  vpc_security_group_ids = concat(
    [aws_security_group.peer.id],
    count.index == 0 && !var.locator_apart ? [aws_security_group.locator.id] : [],
  )
  user_data = local.user_data[count.index]

  metadata_options {
    http_tokens = "required"
  }
  root_block_device {
    volume_size = var.disk_gib
    volume_type = "gp3"
    encrypted   = true
  }
  # A newer image or release is no reason to throw a machine and its files away: see README.md.
  lifecycle {
    ignore_changes = [ami, user_data]
  }
  # The release comes over the internet.
  depends_on = [aws_route_table_association.this, aws_vpc_security_group_egress_rule.web]
  tags       = { Name = "${var.name}-peer-${count.index + 1}" }
}

resource "aws_instance" "locator" {
  count                       = var.locator_apart ? 1 : 0
  ami                         = local.ami_id
  instance_type               = var.instance_type
  subnet_id                   = aws_subnet.this.id
  private_ip                  = local.locator_ip
  associate_public_ip_address = true
  key_name                    = one(aws_key_pair.this[*].key_name)
  vpc_security_group_ids      = [aws_security_group.locator.id]
  user_data = templatefile("${path.module}/cloud-init.sh.tftpl", {
    release_url    = var.release_url
    release_sha256 = var.release_sha256
    roles          = { locator = local.locator_env }
  })

  metadata_options {
    http_tokens = "required"
  }
  root_block_device {
    volume_size = 8
    volume_type = "gp3"
    encrypted   = true
  }
  lifecycle {
    ignore_changes = [ami, user_data]
  }
  depends_on = [aws_route_table_association.this, aws_vpc_security_group_egress_rule.web]
  tags       = { Name = "${var.name}-locator" }
}
